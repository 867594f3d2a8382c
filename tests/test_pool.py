"""Warm connections: only clean ones are kept, each has one user at a time, none is kept for ever."""

import os
from collections.abc import Iterator

import pytest

from hook.pool import Pool
from hook.remote import Remote
from hook.transport import Command


@pytest.fixture
def remotes() -> Iterator[list[Remote]]:
    """Two connections to a program that says back what it hears."""
    made = [Remote(Command(("cat",), dict(os.environ)), "ssh-ng", name) for name in ("a", "b")]
    yield made
    for remote in made:
        if not remote.stream.closed:
            remote.close()


def test_the_one_used_last_is_taken_first_and_only_once(remotes: list[Remote]) -> None:
    """It is the least likely to be dead, and two sessions on one connection would read each other's answers."""
    pool = Pool()
    for remote in remotes:
        pool.give("there", remote)
    assert pool.take("there") is remotes[1]
    assert pool.take("there") is remotes[0]
    assert pool.take("there") is None


def test_a_connection_leads_where_it_was_made_for(remotes: list[Remote]) -> None:
    """Another key or user is another destination."""
    pool = Pool()
    pool.give("there", remotes[0])
    assert pool.take("elsewhere") is None
    assert pool.take("there") is remotes[0]


def test_all_that_lead_to_one_place_can_be_dropped(remotes: list[Remote]) -> None:
    """One of them broke; the other places have nothing to do with it."""
    pool = Pool()
    pool.give("there", remotes[0])
    pool.give("elsewhere", remotes[1])
    pool.drop("there")
    pool.drop("nowhere")
    assert remotes[0].stream.closed
    assert pool.take("there") is None
    assert pool.take("elsewhere") is remotes[1]


def test_a_connection_with_something_unread_is_closed(remotes: list[Remote]) -> None:
    """It would be taken for the answer to the next request."""
    pool = Pool()
    remotes[0].stream.write(b"left over")
    remotes[0].stream.available()
    pool.give("there", remotes[0])
    assert pool.take("there") is None
    assert remotes[0].stream.closed


def test_a_connection_with_something_unsent_is_closed(remotes: list[Remote]) -> None:
    """The machine would take it for the beginning of the next request."""
    pool = Pool()
    remotes[0].stream.write(b"x")
    pool.give("there", remotes[0])
    assert pool.take("there") is None


def test_a_connection_that_died_while_idle_is_not_handed_out() -> None:
    """The machine was rebooted meanwhile; the next older connection may still be good."""
    pool = Pool()
    dead = Remote(Command(("true",), dict(os.environ)), "ssh-ng", "dead")
    dead.stream.silence_s = 10
    with pytest.raises(Exception, match="end of file"):
        dead.stream.available()
    pool.give("there", dead)
    assert pool.take("there") is None
    assert dead.stream.closed


def test_idle_connections_are_closed_after_their_time(remotes: list[Remote]) -> None:
    """And not before."""
    patient, hasty = Pool(idle_s=3600), Pool(idle_s=-1)
    patient.give("there", remotes[0])
    hasty.give("there", remotes[1])
    patient.tidy()
    hasty.tidy()
    assert patient.take("there") is remotes[0]
    assert hasty.take("there") is None
    assert remotes[1].stream.closed


def test_closing_the_pool_closes_what_is_in_it(remotes: list[Remote]) -> None:
    """The broker leaves no ssh behind."""
    pool = Pool()
    for remote in remotes:
        pool.give("there", remote)
    pool.close()
    assert all(remote.stream.closed for remote in remotes)
