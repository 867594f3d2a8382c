"""What is expected of builds that would wait: by experience with builds of the same name, and with bounds."""

import gc
import os
from collections.abc import Iterator

import pytest

from hook.machines.backlog import MOST_EACH, MOST_KEPT, SOON_S, Backlog, name_of
from hook.machines.slots import Slot

STORE = "/nix/store/00000000000000000000000000000001-"


def drv(name: str) -> str:
    return f"{STORE}{name}.drv"


@pytest.mark.parametrize(
    ("name", "known_as"),
    [
        ("storm-17", "storm"),
        ("hello-2.12.1", "hello"),
        ("python3.12-six-1.16", "python3.12-six"),
        ("source", "source"),
        ("a-b-c", "a-b-c"),
        ("a-", "a"),
    ],
)
def test_versions_of_one_thing_have_one_name(name: str, known_as: str) -> None:
    assert name_of(drv(name)) == known_as


class Desk:
    """Machines whose slots are all busy, and a time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.backlog = Backlog(lambda: self.now)
        self.slots: list[Slot] = []

    def occupy(self, machine: str, *names: str) -> None:
        """A build of each name has a slot there from now on."""
        for name in names:
            self.slots.append(Slot(os.open(os.devnull, os.O_RDONLY)))
            self.backlog.occupied(self.slots[-1], machine, drv(name))


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    for slot in desk.slots:
        slot.release()


def test_a_name_that_was_never_built_there_waits_for_nothing(desk: Desk) -> None:
    """It may take hours, and this host may have a slot first."""
    desk.occupy("m", *["short-1"] * 8)
    desk.occupy("other", *["short-1"] * 8)
    desk.backlog.ran("m", drv("short-1"), 0.01)
    assert not desk.backlog.starts_soon({"m"}, drv("unknown-1"))
    assert not desk.backlog.starts_soon({"other"}, drv("short-2"))
    assert not desk.backlog.starts_soon((), drv("short-2"))
    assert desk.backlog.starts_soon({"m"}, drv("short-2"))


@pytest.mark.parametrize(
    ("seconds", "slots", "ahead"), [(0.5, 1, 2), (0.1, 1, 10), (0.5, 4, 8), (SOON_S * 1.1, 1, 0), (0.01, 1, MOST_EACH)]
)
def test_builds_are_promised_that_start_within_a_second(desk: Desk, seconds: float, slots: int, ahead: int) -> None:
    """And only so many, since no name says for certain how long a build takes."""
    desk.occupy("m", *["a-1"] * slots)
    desk.backlog.ran("m", drv("a-1"), seconds)
    promised = 0
    while desk.backlog.starts_soon({"m"}, drv("a-2")):
        desk.backlog.enter(["m"])
        promised += 1
    assert promised == ahead
    for _ in range(promised):
        desk.backlog.leave(["m"])
    assert desk.backlog.starts_soon({"m"}, drv("a-2")) is (ahead > 0)


@pytest.mark.parametrize(
    ("running", "for_s", "soon"),
    [
        ("short", 0.0, True),
        ("short", 0.1 + SOON_S - 0.01, True),
        ("short", 0.1 + SOON_S + 0.01, False),
        ("long", 0.0, False),
        ("long", 59.0 - SOON_S, False),
        ("long", 60.0 - SOON_S, True),
        ("unknown", 0.0, False),
        ("unknown", 60.0, False),
    ],
)
def test_what_runs_in_a_slot_says_how_soon_it_is_free(desk: Desk, running: str, for_s: float, soon: bool) -> None:
    """Unless it takes longer than any before it: then nobody knows."""
    desk.backlog.ran("m", drv("short"), 0.1)
    desk.backlog.ran("m", drv("long"), 60)
    desk.occupy("m", running)
    desk.now += for_s
    assert desk.backlog.starts_soon({"m"}, drv("short")) is soon


def test_each_slot_counts_by_who_has_it_now(desk: Desk) -> None:
    """A slot that was released is somebody else's, or was when this was asked; one may pass to another build."""
    desk.backlog.ran("m", drv("short"), 0.5)
    desk.occupy("m", "short", "unknown", "unknown")
    desk.backlog.enter(["m"])
    assert desk.backlog.starts_soon({"m"}, drv("short"))
    desk.backlog.enter(["m"])
    assert not desk.backlog.starts_soon({"m"}, drv("short"))
    desk.backlog.occupied(desk.slots[1], "m", drv("short"))
    assert desk.backlog.starts_soon({"m"}, drv("short"))
    for slot in desk.slots:
        slot.release()
    assert not desk.backlog.starts_soon({"m"}, drv("short"))


def test_machines_share_the_work(desk: Desk) -> None:
    """A build that waits can go to either."""
    for machine in ("a", "b"):
        desk.backlog.ran(machine, drv("x"), 0.5)
        desk.occupy(machine, "x")
    for _ in range(3):
        desk.backlog.enter(["a", "b"])
    assert desk.backlog.starts_soon(["a", "b"], drv("x"))
    assert not desk.backlog.starts_soon(["a"], drv("x"))
    assert not desk.backlog.starts_soon(["a", "a"], drv("x"))


def test_the_latest_builds_count_most(desk: Desk) -> None:
    """A name that is short today may be long tomorrow."""
    desk.backlog.ran("m", drv("other"), 0.1)
    desk.occupy("m", *["other"] * 8)
    for _ in range(20):
        desk.backlog.ran("m", drv("x-1"), 0.1)
    assert desk.backlog.starts_soon({"m"}, drv("x-3"))
    for _ in range(3):
        desk.backlog.ran("m", drv("x-2"), 60)
    assert not desk.backlog.starts_soon({"m"}, drv("x-3"))


def test_a_refusal_is_news_once() -> None:
    """Hundreds of builds are asked about at the end of each other."""
    backlog = Backlog()
    assert backlog.is_news((1, "a"), ("busy",))
    assert not backlog.is_news((1, "a"), ("busy",))
    assert backlog.is_news((2, "a"), ("busy",))
    assert backlog.is_news((1, "a"), ("failed",))


def test_memory_is_bounded(desk: Desk) -> None:
    """A broker lives for weeks."""
    for number in range(MOST_KEPT + 10):
        desk.backlog.ran("m", drv(f"n{number}"), 0.01)
        desk.backlog.is_news(number, "busy")
    desk.occupy("m", f"n{MOST_KEPT}")
    assert not desk.backlog.starts_soon({"m"}, drv("n0"))
    assert desk.backlog.starts_soon({"m"}, drv(f"n{MOST_KEPT}"))
    assert desk.backlog.is_news(0, "busy")
    desk.slots.pop().release()
    gc.collect()
    assert len(desk.backlog._occupants) == 0
