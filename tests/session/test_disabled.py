"""Machines that the user takes out of use: what builds do that are there, or wait for them."""

import os
import time

import pytest

from hook.config import Config
from hook.errors import MachineError
from hook.machines.disabled import Disabled
from hook.machines.places import Place
from hook.machines.schedule import Answer
from tests.session.desk import (
    REQUEST,
    TIMEOUT_S,
    Desk,
    Ready,
    Waiting,
    ahead,
    connect,
    good,
    place_of,
    run,
    wait_for_lines,
)


def disable(desk: Desk, place: Place) -> None:
    assert Disabled(str(desk.root / "nix-ferry")).add(place.machine)


def enable(desk: Desk, place: Place) -> None:
    assert Disabled(str(desk.root / "nix-ferry")).remove(place.machine)


def test_a_disabled_machine_gets_no_build_until_it_is_enabled(desk: Desk) -> None:
    """While no other can do it, and neither can this host, Nix is to ask again, and its user is told why."""
    conversation = desk.conversation(good())
    place = place_of(conversation)
    place.release()
    disable(desk, place)
    decision, none = conversation.decide(REQUEST)
    assert none is None
    assert decision.answer is Answer.POSTPONE
    assert decision.verdicts[0].reason.startswith("disabled by the user since 2")
    assert conversation.waits_for(REQUEST, decision) is None
    assert desk.held() == 0
    conversation.remind(REQUEST)
    conversation.remind(REQUEST)
    (line,) = (desk.root / "log").read_text().splitlines()
    assert "waiting for a machine: 'ssh-ng://localhost" in line
    assert "': disabled by the user since" in line
    enable(desk, place)
    assert place_of(conversation).name == place.name


def test_a_disabled_machine_is_no_hindrance_to_others(desk: Desk) -> None:
    """Nor to this host."""
    place = place_of(desk.conversation(good("a", speed=2), good("b")))
    place.release()
    disable(desk, place)
    assert "ok%20b" in place_of(desk.conversation(good("a", speed=2), good("b"))).name
    desk.max_jobs = 1
    assert desk.conversation(good("a", speed=2)).decide(REQUEST)[0].answer is Answer.DECLINE


def test_a_promised_build_waits_until_its_only_machine_is_enabled(desk: Desk) -> None:
    running = run(desk.conversation(good()))
    disable(desk, running)
    waiting = Waiting(desk.conversation(good()))
    wait_for_lines(desk, 1)
    running.release()
    enable(desk, running)
    assert isinstance(waiting.outcome(), Place)


def test_builds_that_only_wait_at_a_disabled_machine_leave_it(desk: Desk) -> None:
    """All of the line, though only its first one looks; what runs there goes on."""
    desk.config = Config(look_ahead=2)
    running = run(desk.conversation(good("a", speed=2)))
    both = good("a", speed=2), good("b", jobs=2)
    blocked = [run(desk.conversation(good("b", jobs=2))) for _ in range(2)]
    places = [ahead(desk.conversation(*both)) for _ in range(2)]
    assert [place.name for place in places] == [running.name] * 2
    ready = [Ready(conversation, place) for conversation, place in zip(desk._open[-2:], places, strict=True)]
    wait_for_lines(desk, 2)
    disable(desk, running)
    end = time.monotonic() + TIMEOUT_S
    while desk.look_ahead.count(running.at):
        assert time.monotonic() < end
        os.sched_yield()
    for place in blocked:
        place.release()
    moved = [each.outcome() for each in ready]
    assert [place.name for place in moved if isinstance(place, Place)] == [blocked[0].name] * 2


def test_a_build_whose_inputs_still_travel_does_not_start_on_a_disabled_machine(desk: Desk) -> None:
    """It has a slot there, which it gives up."""
    conversation = desk.conversation(good("a", speed=2), good("b"))
    place = place_of(conversation)
    place.lend()
    disable(desk, place)
    other = conversation.wait_for_slot(REQUEST, place)
    assert "ok%20b" in other.name
    assert desk.held() == 1


def test_who_has_left_a_disabled_machine_does_not_try_there_again(desk: Desk) -> None:
    """A slot that a build had in a place which it had given up already would be nobody's to release."""
    first = desk.conversation(good(jobs=2))
    first.give_back(connect(first))
    conversation = desk.conversation(good(jobs=2))
    place = place_of(conversation)
    remote = connect(conversation, place)
    place.lend()
    disable(desk, place)
    conversation.roster.leave_out(place.machine, "has failed")
    with pytest.raises(MachineError, match="disabled by the user") as error:
        conversation.wait_for_slot(REQUEST, place)
    assert not conversation.may_be_mended(place, remote, error.value)
