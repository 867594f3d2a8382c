"""Places: whose a slot is when it is lent, and how many builds are ahead of theirs.

Slots are real locks, so that a test sees what another hook would.
"""

import fcntl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hook.machines.builders import parse_machines
from hook.machines.places import LookAhead, Place
from hook.machines.slots import Slot, SlotTable

AT = "machine"


class Desk:
    """One machine with one slot, and the places there."""

    def __init__(self, root: Path) -> None:
        (root / "current-load").mkdir()
        self._table = SlotTable(str(root))
        self._directory = root / "current-load"
        ((self._machine,), _) = parse_machines("b1", default_system="x", release=(2, 34), read_file=str)
        self.changes = 0
        self.look_ahead = LookAhead(self._changed)
        self.left: list[Place] = []

    def _changed(self) -> None:
        self.changes += 1

    def slot(self, jobs: int = 1) -> Slot:
        with self._table.selection():
            slot, _ = self._table.probe("m", jobs)
        assert slot is not None
        return slot

    def place(self, slot: Slot | None = None) -> Place:
        return Place(self._machine, "b1", AT, slot, self.look_ahead, self.left.append)

    def locked(self, number: int = 0) -> bool:
        """Whether any other hook would find the slot busy."""
        with (self._directory / f"m-{number}").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    return Desk(tmp_path)


def test_a_build_with_a_slot_runs_in_it(desk: Desk) -> None:
    """The plain case: nothing had to be copied."""
    place = desk.place(desk.slot())
    assert place.start()
    place.release()
    place.release()
    assert not desk.locked()
    assert desk.left == [place]


def test_a_lent_slot_that_nobody_took_is_there_again(desk: Desk) -> None:
    """Lending is free of charge."""
    place = desk.place(desk.slot())
    place.lend()
    assert place.start()
    assert desk.look_ahead.borrow(AT) is None
    assert desk.locked()


def test_a_lent_slot_runs_a_build_that_is_ready(desk: Desk) -> None:
    """Busy all the time for other hooks; the lender then has none and can be given the next."""
    lender, ready = desk.place(desk.slot()), desk.place()
    assert not ready.start()
    lender.lend()
    assert ready.start(desk.look_ahead.borrow(AT))
    assert not lender.start()
    lender.release()
    assert desk.locked()
    ready.release()
    assert not desk.locked()


def test_who_has_a_slot_keeps_no_second_one(desk: Desk) -> None:
    """Disabled and enabled again while it is lent: another one is found first."""
    place = desk.place(desk.slot())
    place.lend()
    assert place.start(desk.slot(jobs=2))
    assert [desk.locked(number) for number in (0, 1)] == [True, False]
    place.release()
    assert not desk.locked()


@pytest.mark.parametrize("lent", [False, True])
def test_a_place_that_is_given_up_frees_its_slot(desk: Desk, lent: bool) -> None:
    """Cancelled in the middle of an upload, say; a slot that was still on offer must not be taken afterwards."""
    place = desk.place(desk.slot())
    if lent:
        place.lend()
    place.release()
    assert not desk.locked()
    assert desk.look_ahead.borrow(AT) is None


def test_a_build_is_ahead_until_it_runs_or_leaves(desk: Desk) -> None:
    """With a slot or without; so the next build does not compete with it for the link."""
    running, waiting = desk.place(desk.slot()), desk.place()
    assert desk.look_ahead.count(AT) == 2
    running.start()
    assert desk.look_ahead.count(AT) == 1
    running.release()
    waiting.release()
    waiting.release()
    assert desk.look_ahead.count(AT) == 0


@pytest.mark.parametrize("event", ["lend", "start", "release"])
def test_whoever_waits_hears_of_every_change(desk: Desk, event: str) -> None:
    """Of a slot, or of room for one more build ahead."""
    place = desk.place(desk.slot())
    before = desk.changes
    getattr(place, event)()
    assert desk.changes > before


def test_a_lent_slot_has_one_owner_under_any_schedule(desk: Desk) -> None:
    """The lender ends its upload in the moment in which two others look."""

    def start(place: Place, borrows: bool, together: threading.Barrier, runs: list[Place]) -> None:
        together.wait()
        if place.start(desk.look_ahead.borrow(AT) if borrows else None):
            runs.append(place)

    for _ in range(200):
        lender, *others = places = desk.place(desk.slot()), desk.place(), desk.place()
        lender.lend()
        runs: list[Place] = []
        barrier = threading.Barrier(3)
        threads = [threading.Thread(target=start, args=(place, place in others, barrier, runs)) for place in places]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(runs) == 1
        for place in places:
            place.release()
        assert not desk.locked()


def test_a_slot_is_lent_once_however_often_that_is_asked(desk: Desk) -> None:
    """Inputs are sent, and then the derivation: lent twice, one slot would run two builds."""
    lender = desk.place(desk.slot())
    lender.lend()
    lender.lend()
    assert desk.look_ahead.lent(AT) == 1
    borrowed = desk.look_ahead.borrow(AT)
    assert borrowed is not None
    assert desk.look_ahead.borrow(AT) is None
    assert not lender.start()
    # It has none any more, and so none to lend.
    lender.lend()
    assert desk.look_ahead.lent(AT) == 0
    lender.release()
    assert desk.locked()
    borrowed.release()
    assert not desk.locked()
