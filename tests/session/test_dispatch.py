"""Finding a place: one slot held and no more, and machines that failed and come back."""

import pytest

from hook.errors import Cancelled, ConnectionLost, MachineError, NotTrusted, Trouble
from hook.machines.schedule import Answer
from hook.machines.slots import MOST_SLOTS, SlotTable
from hook.session import dispatch as dispatch_module
from tests.session.desk import REQUEST, Desk, Waiting, connect, good, is_running, machine_of, place_of

# Slots


def test_only_the_slot_of_the_chosen_machine_is_kept(desk: Desk) -> None:
    """All able machines were probed; the others are somebody else's to use."""
    place = place_of(desk.conversation(good("a"), good("b", speed=2), good("c")))
    assert "ok%20b" in place.name
    assert desk.held() == 1
    place.release()
    place.release()
    assert desk.held() == 0


def test_whatever_goes_wrong_while_choosing_no_slot_is_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that lost a slot would have lost it for days."""
    conversation = desk.conversation(good("a"), good("b"))

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(dispatch_module, "decide", fail)
    with pytest.raises(ZeroDivisionError):
        conversation.decide(REQUEST)
    assert desk.held() == 0


def test_a_machine_whose_slots_cannot_be_locked_is_left_out(desk: Desk) -> None:
    """A directory is in the way of its lock file; the next machine is as good."""
    conversation = desk.conversation(good("a", speed=2), good("b"))
    place = place_of(conversation)
    place.release()
    (lock,) = (file for file in (desk.root / "current-load").iterdir() if "ok%20a" in file.name)
    lock.unlink()
    lock.mkdir()
    decision, place_b = conversation.decide(REQUEST)
    assert place_b is not None
    assert "ok%20b" in place_b.name
    assert "cannot lock" in decision.verdicts[0].reason
    lock.rmdir()


@pytest.mark.parametrize(
    ("max_jobs", "expected"), [(0, Answer.POSTPONE), (1, Answer.DECLINE)], ids=["elsewhere", "here"]
)
def test_hooks_that_choose_for_ever_do_not_hold_nix(desk: Desk, max_jobs: int, expected: Answer) -> None:
    """One that was stopped holds the main lock; Nix does nothing else until it has an answer."""
    desk.max_jobs = max_jobs
    conversation = desk.conversation(good())
    with SlotTable(str(desk.root)).selection():
        decision, place = conversation.decide(REQUEST, patience_s=0.01)
    assert place is None
    assert decision.answer is expected
    assert "another hook has held 'main-lock'" in decision.verdicts[0].reason


def test_choosing_ends_with_its_caller(desk: Desk) -> None:
    """Also after the accept, when there is all the time in the world."""
    conversation = desk.conversation(good())
    with SlotTable(str(desk.root)).selection():
        waiting = Waiting(conversation)
        desk.hang_up()
        assert isinstance(waiting.outcome(), Cancelled)


@pytest.mark.parametrize("files", [0, MOST_SLOTS], ids=["none", "many"])
def test_a_machine_with_very_many_jobs_does_not_keep_anybody(desk: Desk, files: int) -> None:
    """A builder can claim any number when it is added; whoever gives up is not kept either."""
    conversation = desk.conversation(good(jobs=4_294_967_295))
    stem = conversation.roster.in_use()[0].lock_stem
    for number in range(files):
        (desk.root / "current-load" / f"{stem}-{number}").touch()
    place_of(conversation).release()
    assert len(list((desk.root / "current-load").iterdir())) == max(files, 1) + 1
    desk.hang_up()
    if files:
        with pytest.raises(Cancelled):
            conversation.decide(REQUEST)
    assert desk.held() == 0


def test_the_end_of_a_conversation_gives_up_everything(desk: Desk) -> None:
    """However it ends: an exception between two steps must not cost a slot, or leave a build running."""
    conversation = desk.conversation(good(jobs=3))
    remote = connect(conversation)
    place_of(conversation)
    assert desk.held() == 1
    conversation.close()
    assert desk.held() == 0
    assert not is_running(remote)
    conversation.close()


# Losses


def test_a_machine_whose_disk_is_full_is_left_out_here_and_left_alone_elsewhere(desk: Desk) -> None:
    """Connecting to it works; only a build would find out, again and again."""
    conversation = desk.conversation(good("a", speed=2), good("b"))
    conversation.lost(machine_of(conversation), MachineError("full", Trouble.DISK_FULL))
    for other in (conversation, desk.conversation(good("a", speed=2), good("b"))):
        place = place_of(other)
        assert "ok%20b" in place.name
        place.release()
    desk.clock.now += Trouble.DISK_FULL.pause_s
    assert "ok%20a" in place_of(desk.conversation(good("a", speed=2), good("b"))).name


def test_a_machine_is_lost_once_and_tried_again_and_lost_twice_and_left(desk: Desk) -> None:
    """The other one first, if there is one."""
    conversation = desk.conversation(good("a", speed=2), good("b"))
    machine = machine_of(conversation)
    conversation.lost(machine, ConnectionLost("reset"))
    assert not desk.health.is_fresh(conversation.roster.health_of(machine))
    other = conversation.wait(REQUEST)
    assert other is not None
    assert "ok%20b" in other.name
    again = conversation.wait(REQUEST)
    assert again is not None
    assert again.machine == machine
    again.release()
    conversation.lost(machine, ConnectionLost("reset"))
    other.release()
    last = conversation.wait(REQUEST)
    assert last is not None
    assert last.machine == other.machine


def test_distrust_does_not_pass(desk: Desk) -> None:
    """A second try would end in the same words."""
    conversation = desk.conversation(good())
    conversation.lost(machine_of(conversation), NotTrusted("no"))
    assert conversation.wait(REQUEST) is None


@pytest.mark.parametrize(("error", "kept"), [(ConnectionLost("reset"), False), (MachineError("it refused"), True)])
def test_a_connection_that_breaks_casts_doubt_on_the_idle_ones(desk: Desk, error: MachineError, kept: bool) -> None:
    """They would be the next to break, each costing a build one of its tries."""
    conversation = desk.conversation(good(jobs=2))
    place = place_of(conversation)
    idle, used = connect(conversation, place), connect(conversation)
    conversation.give_back(idle)
    conversation.lost(place.machine, error)
    assert is_running(idle) is kept
    assert is_running(used)


def test_all_that_leads_to_a_machine_whose_disk_is_full_is_let_go(desk: Desk) -> None:
    """At once, whatever the line is called for which it was made: a new connection would find what they keep there."""
    first = desk.conversation(good(jobs=2))
    idle = connect(first)
    first.give_back(idle)
    second = desk.conversation(good(jobs=9).replace("?", "?system-features=kvm&"))
    place = place_of(second)
    used = connect(second, place)
    assert used is idle
    second.give_back(used)
    assert place.name != used.name
    assert second.may_be_mended(place, used, MachineError("full", Trouble.DISK_FULL))
    assert not is_running(idle)
