"""A build that was accepted waits for a slot, as long as there is a machine that may have one."""

import os
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import pytest

from hook.errors import Cancelled, MachineError, StockOnly, Trouble
from hook.machines.health import FIRST_PAUSE_S, LONGEST_PAUSE_S, Health
from hook.machines.places import Place
from hook.machines.schedule import Decision
from tests.session.desk import (
    REQUEST,
    Desk,
    Waiting,
    bad,
    connect,
    fail_to_connect,
    good,
    machine_of,
    place_of,
    run,
    wait_for_lines,
)


@pytest.mark.parametrize("willing", [False, True])
def test_a_slot_that_is_freed_goes_to_who_waits(desk: Desk, willing: bool) -> None:
    """Whether this host could have built it does not matter any more: it was promised."""
    desk.max_jobs = 8
    place = place_of(desk.conversation(good()))
    waiting = Waiting(desk.conversation(good()), replace(REQUEST, am_willing=willing))
    place.release()
    taken = waiting.outcome()
    assert isinstance(taken, Place)
    assert taken.name == place.name


def test_a_slot_that_the_first_in_line_has_no_use_for_goes_to_the_next(desk: Desk) -> None:
    """A machine would refuse the one and takes the other."""
    lines = good("picky"), good("other")
    picky, other = (run(desk.conversation(line)) for line in lines)
    first = desk.conversation(*lines)
    first.spare(REQUEST, first.roster.in_use()[0].machine, "nobody has signed its input")
    refused = Waiting(first)
    wait_for_lines(desk, 1)
    taken = Waiting(desk.conversation(*lines))
    wait_for_lines(desk, 2)
    picky.release()
    place = taken.outcome()
    assert isinstance(place, Place)
    assert place.name == picky.name
    other.release()
    last = refused.outcome()
    assert isinstance(last, Place)
    assert last.name == other.name


def test_a_build_waits_for_no_machine_that_would_refuse_it(desk: Desk) -> None:
    """Not even if it is the only one."""
    conversation = desk.conversation(good())
    machine = machine_of(conversation)
    conversation.spare(REQUEST, machine, "nobody has signed its input")
    assert Waiting(conversation).outcome() is None
    assert "nobody has signed its input" in conversation.why_nowhere(REQUEST)


def test_waiting_ends_when_nix_gives_up(desk: Desk) -> None:
    """And holds nothing."""
    place_of(desk.conversation(good()))
    waiting = Waiting(desk.conversation(good()))
    desk.hang_up()
    assert isinstance(waiting.outcome(), Cancelled)
    assert desk.held() == 1


def test_a_machine_that_is_down_for_a_moment_is_waited_for(desk: Desk) -> None:
    """The build was promised, and the machine may be back in a few seconds."""
    line = good()
    conversation = desk.conversation(line)
    place = place_of(conversation)
    waiting = Waiting(desk.conversation(line))
    desk.health.failed(conversation.roster.health_of(place.machine), "refused")
    place.release()
    desk.clock.now += FIRST_PAUSE_S
    assert isinstance(waiting.outcome(), Place)


def test_a_machine_that_fails_again_is_not_waited_for_any_longer(desk: Desk) -> None:
    """Whoever tried it: two hundred builds must not each have a try, with longer and longer pauses between."""
    line = good()
    conversation = desk.conversation(line)
    place = place_of(conversation)
    key = conversation.roster.health_of(place.machine)
    waiting = [Waiting(desk.conversation(line)) for _ in range(5)]
    wait_for_lines(desk, len(waiting))
    desk.health.failed(key, "timed out")
    desk.clock.now += FIRST_PAUSE_S
    desk.health.failed(key, "timed out")
    assert [each.outcome() for each in waiting] == [None] * len(waiting)
    assert "timed out" in waiting[-1].conversation.why_nowhere(REQUEST)


class Watched(Health):
    """One that knows how often somebody who waits has looked at it."""

    looks = 0

    def failures(self, machine: Hashable) -> int:
        self.looks += 1
        return super().failures(machine)

    def wait_for_look(self, waiting: Waiting) -> None:
        """Return when all that was known before has been looked at, or nobody waits any more."""
        # The first look may have begun already.
        before = self.looks
        while self.looks < before + 2 and waiting.is_alive():
            os.sched_yield()


def test_a_machine_that_has_worked_meanwhile_is_waited_for(desk: Desk) -> None:
    """A build may wait for hours, and a machine turn away a connection now and then; only what lasts is a reason."""
    desk.health = health = Watched(desk.clock, jitter=lambda: 0.5)
    line = good()
    conversation = desk.conversation(line)
    place = place_of(conversation)
    waiting = Waiting(desk.conversation(line))
    for _ in range(3):
        health.failed(conversation.roster.health_of(place.machine), "its sshd turns connections away")
        desk.clock.now += FIRST_PAUSE_S
        health.worked(conversation.roster.health_of(place.machine))
        health.wait_for_look(waiting)
    place.release()
    assert isinstance(waiting.outcome(), Place)


def test_a_machine_whose_disk_is_full_again_is_not_waited_for_any_longer(desk: Desk) -> None:
    """A hundred builds would each have a try, and a pause between; there is one to connect to it, but none to build."""
    line = good()
    conversation = desk.conversation(line)
    place = place_of(conversation)
    waiting = Waiting(desk.conversation(line))
    wait_for_lines(desk, 1)
    for _ in range(2):
        conversation.lost(place.machine, MachineError("full", Trouble.DISK_FULL))
        desk.clock.now += LONGEST_PAUSE_S
        desk.health.worked(conversation.roster.health_of(place.machine))
    assert waiting.outcome() is None


def test_of_a_machine_that_was_down_before_only_what_follows_counts(desk: Desk) -> None:
    """It is given two more tries; after a success it is a machine like any other."""
    desk.health = health = Watched(desk.clock, jitter=lambda: 0.5)
    line = good()
    conversation = desk.conversation(line)
    place = place_of(conversation)
    key = conversation.roster.health_of(place.machine)

    def fail() -> None:
        health.failed(key, "timed out")
        desk.clock.now += LONGEST_PAUSE_S * 2

    for _ in range(3):
        fail()
    waiting = Waiting(desk.conversation(line))
    health.wait_for_look(waiting)
    fail()
    health.wait_for_look(waiting)
    health.worked(key)
    health.wait_for_look(waiting)
    fail()
    health.wait_for_look(waiting)
    assert waiting.is_alive()
    fail()
    assert waiting.outcome() is None


def test_with_every_machine_left_out_there_is_nothing_to_wait_for(desk: Desk) -> None:
    """The build fails with the reason, instead of never."""
    conversation = desk.conversation(bad())
    fail_to_connect(conversation)
    assert conversation.wait(REQUEST) is None


def test_a_machine_for_the_stock_hook_is_no_place_after_the_accept(desk: Desk) -> None:
    """The stock hook would have had to answer in our place."""
    conversation = desk.conversation("mounted-ssh-ng://b1 - - 1 2", good())
    with pytest.raises(StockOnly):
        connect(conversation)
    place = conversation.wait(REQUEST)
    assert place is not None
    assert "ok" in place.name


def test_a_machine_for_the_stock_hook_is_chosen_once_and_not_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the best one and has slots enough, so it would be chosen for ever."""
    conversation = desk.conversation("mounted-ssh-ng://b1 - - 8 9", good())
    chosen: list[str] = []
    decide = conversation.dispatcher.decide

    def count(*args: Any, **rest: Any) -> tuple[Decision, Place | None]:
        decision, place = decide(*args, **rest)
        assert place is not None
        chosen.append(place.name)
        assert len(chosen) <= 2
        return decision, place

    monkeypatch.setattr(conversation.dispatcher, "decide", count)
    place = conversation.wait(REQUEST)
    assert place is not None
    assert chosen == ["mounted-ssh-ng://b1", place.name]
    assert "'mounted-ssh-ng://b1': is one for the stock hook" in conversation.why_nowhere(REQUEST)
    assert desk.held() == 1
