"""What is expected of builds that would wait: by experience with builds of the same name, and with bounds."""

import pytest

from hook.backlog import MOST_EACH, MOST_KEPT, SOON_S, Backlog, name_of

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


def test_a_name_that_was_never_built_there_waits_for_nothing() -> None:
    """It may take hours, and this host may have a slot first."""
    backlog = Backlog()
    backlog.ran("m", drv("short-1"), 0.01)
    assert not backlog.starts_soon({"m": 8}, drv("unknown-1"))
    assert not backlog.starts_soon({"other": 8}, drv("short-2"))
    assert not backlog.starts_soon({}, drv("short-2"))


@pytest.mark.parametrize(
    ("seconds", "slots", "ahead"), [(0.5, 1, 2), (0.1, 1, 10), (0.5, 4, 8), (SOON_S * 1.1, 1, 0), (0.01, 1, MOST_EACH)]
)
def test_builds_are_promised_that_start_within_a_second(seconds: float, slots: int, ahead: int) -> None:
    """And only so many, since no name says for certain how long a build takes."""
    backlog = Backlog()
    backlog.ran("m", drv("a-1"), seconds)
    promised = 0
    while backlog.starts_soon({"m": slots}, drv("a-2")):
        backlog.enter(["m"])
        promised += 1
    assert promised == ahead
    for _ in range(promised):
        backlog.leave(["m"])
    assert backlog.starts_soon({"m": slots}, drv("a-2")) is (ahead > 0)


def test_machines_share_the_work() -> None:
    """A build that waits can go to either."""
    backlog = Backlog()
    for machine in ("a", "b"):
        backlog.ran(machine, drv("x"), 0.5)
    for _ in range(3):
        backlog.enter(["a", "b"])
    assert backlog.starts_soon({"a": 1, "b": 1}, drv("x"))
    assert not backlog.starts_soon({"a": 1}, drv("x"))


def test_the_latest_builds_count_most() -> None:
    """A name that is short today may be long tomorrow."""
    backlog = Backlog()
    for _ in range(20):
        backlog.ran("m", drv("x-1"), 0.1)
    for _ in range(3):
        backlog.ran("m", drv("x-2"), 60)
    assert not backlog.starts_soon({"m": 8}, drv("x-3"))


def test_a_refusal_is_news_once() -> None:
    """Hundreds of builds are asked about at the end of each other."""
    backlog = Backlog()
    assert backlog.is_news((1, "a"), ("busy",))
    assert not backlog.is_news((1, "a"), ("busy",))
    assert backlog.is_news((2, "a"), ("busy",))
    assert backlog.is_news((1, "a"), ("failed",))


def test_memory_is_bounded() -> None:
    """A broker lives for weeks."""
    backlog = Backlog()
    for number in range(MOST_KEPT + 10):
        backlog.ran("m", drv(f"n{number}"), 0.01)
        backlog.is_news(number, "busy")
    assert not backlog.starts_soon({"m": 1}, drv("n0"))
    assert backlog.starts_soon({"m": 1}, drv(f"n{MOST_KEPT}"))
    assert backlog.is_news(0, "busy")
