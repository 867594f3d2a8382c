"""Places ahead of a slot: while inputs travel, a slot is lent to a build that has its own there."""

import pytest

from hook.config import Config
from hook.errors import Cancelled
from hook.machines.health import FIRST_PAUSE_S
from hook.machines.places import Place
from hook.machines.schedule import Answer
from tests.session.desk import (
    REQUEST,
    Desk,
    Ready,
    Waiting,
    ahead,
    connect,
    good,
    is_running,
    place_of,
    run,
    wait_for_lines,
)


def test_a_build_that_waits_has_a_machine_already(desk: Desk) -> None:
    """Where its inputs can go meanwhile: it takes no slot, and when one is free it runs there."""
    running = run(desk.conversation(good()))
    conversation = desk.conversation(good())
    place = ahead(conversation)
    assert desk.held() == 1
    assert is_running(connect(conversation, place))
    ready = Ready(conversation, place)
    wait_for_lines(desk, 1)
    assert desk.held() == 1
    running.release()
    assert ready.outcome() is place
    assert desk.held() == 1
    place.release()
    assert desk.held() == 0


def test_the_machine_is_chosen_by_the_rule_for_slots(desk: Desk) -> None:
    """Load by speed, and the faster one of equals; builds that are ahead of a slot are load, too."""
    desk.config = Config(look_ahead=9)
    machines = good("slow"), good("fast", speed=2)
    for _ in range(2):
        run(desk.conversation(*machines))
    names = [ahead(desk.conversation(*machines)).name for _ in range(4)]
    assert ["fast" in name for name in names] == [True, True, False, True]


@pytest.mark.parametrize(("configured", "limit"), [(None, 2), (3, 3), (1, 1)])
def test_only_so_many_builds_are_ahead(desk: Desk, configured: int | None, limit: int) -> None:
    """The others wait in line, without connections; the next one takes the place of one that runs."""
    desk.config = Config(look_ahead=configured)
    running = [run(desk.conversation(good(jobs=2))) for _ in range(2)]
    places = [ahead(desk.conversation(good(jobs=2))) for _ in range(limit)]
    waiting = Waiting(desk.conversation(good(jobs=2)), ahead=True)
    wait_for_lines(desk, 1)
    assert desk.look_ahead.count(places[0].at) == limit
    ready = Ready(desk._open[2], places[0])
    wait_for_lines(desk, 2)
    running[0].release()
    assert ready.outcome() is places[0]
    assert isinstance(waiting.outcome(), Place)
    assert desk.look_ahead.count(places[0].at) == limit


def test_builds_that_have_a_slot_and_do_not_run_yet_are_ahead(desk: Desk) -> None:
    """They are on the link, and the next ones would only slow them down."""
    starting = place_of(desk.conversation(good()))
    waiting = Waiting(desk.conversation(good()), ahead=True)
    wait_for_lines(desk, 1)
    assert desk._open[0].wait_for_slot(REQUEST, starting) is starting
    assert isinstance(waiting.outcome(), Place)


@pytest.mark.parametrize("why", ["configured", "a lone hook"])
def test_without_look_ahead_a_build_waits_for_its_slot(desk: Desk, why: str) -> None:
    """Lone hooks do not see each other: each of them would be the first one ahead."""
    if why == "configured":
        desk.config = Config(look_ahead=0)
    else:
        desk.lasting = False
    running = run(desk.conversation(good()))
    waiting = Waiting(desk.conversation(good()), ahead=True)
    wait_for_lines(desk, 1)
    assert desk.look_ahead.count(running.at) == 0
    running.release()
    assert isinstance(waiting.outcome(), Place)
    assert desk.held() == 1


def test_a_slot_is_lent_while_inputs_travel(desk: Desk) -> None:
    """To a build that has its own there; the lender has the next one."""
    desk.config = Config(look_ahead=2)
    uploading = place_of(desk.conversation(good()))
    place = ahead(desk.conversation(good()))
    ready = Ready(desk._open[1], place)
    wait_for_lines(desk, 1)
    uploading.lend()
    assert ready.outcome() is place
    assert desk.held() == 1
    late = Ready(desk._open[0], uploading)
    place.release()
    assert late.outcome() is uploading


def test_a_slot_is_kept_for_who_is_ready(desk: Desk) -> None:
    """A build that arrives in this moment has yet to bring its inputs."""
    running = run(desk.conversation(good()))
    place = ahead(desk.conversation(good()))
    with desk.queue.first("any", desk.caller, place.at):
        running.release()
        decision, none = desk.conversation(good()).decide(REQUEST)
        assert none is None
        assert decision.answer is Answer.POSTPONE
    assert desk.held() == 0


def test_whichever_machine_is_free_first(desk: Desk) -> None:
    """The inputs are on one; the slot comes on the other."""
    machines = good("a"), good("b")
    running = [run(desk.conversation(*machines)) for _ in range(2)]
    conversation = desk.conversation(*machines)
    place = ahead(conversation)
    (other,) = (each for each in running if each.name != place.name)
    ready = Ready(conversation, place)
    wait_for_lines(desk, 1)
    other.release()
    moved = ready.outcome()
    assert isinstance(moved, Place)
    assert moved.name == other.name
    assert moved.start()


def test_a_slot_elsewhere_is_for_builds_that_have_their_inputs_nowhere(desk: Desk) -> None:
    """Else one upload would be for nothing, and another build would still wait."""
    desk.config = Config(look_ahead=1)
    machines = good("a"), good("b")
    running = [run(desk.conversation(*machines)) for _ in range(2)]
    places = [ahead(desk.conversation(*machines)) for _ in range(2)]
    ready = Ready(desk._open[2], places[0])
    waiting = Waiting(desk.conversation(*machines))
    wait_for_lines(desk, 2)
    (other,) = (each for each in running if each.name != places[0].name)
    other.release()
    taken = waiting.outcome()
    assert isinstance(taken, Place)
    assert taken.name == other.name
    desk.hang_up()
    assert isinstance(ready.outcome(), Cancelled)


def test_a_build_ahead_may_be_the_one_that_tries_a_machine_again(desk: Desk) -> None:
    """One at a time, as with a slot; and what it finds holds for all."""
    running = run(desk.conversation(good(jobs=1)))
    first = desk.conversation(good(jobs=1))
    desk.health.failed(first.roster.health_of(running.machine), "timed out")
    desk.clock.now += FIRST_PAUSE_S
    desk.config = Config(look_ahead=5)
    place = ahead(first)
    decision, none = desk.conversation(good(jobs=1)).decide(REQUEST, ahead=True)
    assert none is None
    assert "being tried again" in decision.verdicts[0].reason
    connect(first, place)
    ahead(desk.conversation(good(jobs=1)))


def test_a_build_that_is_ready_waits_for_a_machine_that_others_find_down(desk: Desk) -> None:
    """It is connected to it."""
    running = run(desk.conversation(good()))
    conversation = desk.conversation(good())
    place = ahead(conversation)
    desk.health.failed(conversation.roster.health_of(place.machine), "its sshd turns connections away")
    ready = Ready(conversation, place)
    running.release()
    assert ready.outcome() is place


def test_the_end_of_a_build_ahead_makes_room(desk: Desk) -> None:
    """Nix has given it up while it waited."""
    run(desk.conversation(good()))
    conversation = desk.conversation(good())
    place = ahead(conversation)
    ready = Ready(conversation, place)
    wait_for_lines(desk, 1)
    desk.hang_up()
    assert isinstance(ready.outcome(), Cancelled)
    conversation.close()
    assert desk.look_ahead.count(place.at) == 0
    assert desk.held() == 1
