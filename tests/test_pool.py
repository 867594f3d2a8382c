"""Warm connections: only clean ones are kept, each has one user at a time, none is kept for ever."""

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from hook.errors import ConnectionLost
from hook.pool import Pool
from hook.protocol.client import StoreClient
from hook.remote import Remote
from hook.transport import Command


def connected(program: str, name: str) -> Remote:
    """A connection over which everything that was asked is answered."""
    remote = Remote(Command(tuple(program.split()), dict(os.environ)), "ssh-ng", name)
    remote.client = cast(StoreClient, SimpleNamespace(idle=True))
    return remote


@pytest.fixture
def remotes() -> Iterator[list[Remote]]:
    """Two connections to a program that says back what it hears."""
    made = [connected("cat", name) for name in ("a", "b")]
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


def test_a_connection_that_still_owes_an_answer_is_closed(remotes: list[Remote]) -> None:
    """Nothing may have arrived of it yet; it would be taken for the answer to the next request."""
    pool = Pool()
    remotes[0].client = cast(StoreClient, SimpleNamespace(idle=False))
    pool.give("there", remotes[0])
    assert pool.take("there") is None
    assert remotes[0].stream.closed


def test_a_connection_that_was_retired_is_closed(remotes: list[Remote]) -> None:
    """Its machine remembers something that is not to be believed."""
    pool = Pool()
    remotes[0].retire()
    pool.give("there", remotes[0])
    assert pool.take("there") is None
    assert remotes[0].stream.closed


def test_what_is_known_of_a_machine_lasts_as_long_as_a_connection_to_it(remotes: list[Remote]) -> None:
    """All of its connections share it; the next machine of that name may have an empty store."""
    pool = Pool()
    remotes[0].known = remotes[1].known = pool.known("there")
    pool.known("there").add(["a"])
    remotes[0].known = pool.known("elsewhere")
    assert pool.known("there").unknown(["a"]) == []
    assert pool.known("elsewhere").unknown(["a"]) == ["a"]
    remotes[1].known = pool.known("elsewhere")
    assert pool.known("there").unknown(["a"]) == ["a"]


@pytest.mark.parametrize("doubt", ["doubt", "drop", "take"])
def test_what_is_known_is_forgotten_on_any_doubt(remotes: list[Remote], doubt: str) -> None:
    """Somebody says so, a connection was lost, or a kept one turns out to be dead."""
    pool = Pool()
    known = pool.known("there")
    known.add(["a"])
    pool.give("there", remotes[0])
    remotes[0].client = cast(StoreClient, SimpleNamespace(idle=False))
    getattr(pool, doubt)("there")
    assert known.unknown(["a"]) == ["a"]


def test_a_connection_that_died_while_idle_is_not_handed_out() -> None:
    """The machine was rebooted meanwhile; the next older connection may still be good."""
    pool = Pool()
    dead = connected("true", "dead")
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


def test_a_connection_that_died_while_idle_is_closed_before_its_time(remotes: list[Remote]) -> None:
    """Its ssh would stay as a zombie, with a place on a shared connection; those that live are kept."""
    pool = Pool()
    dying = connected("sed -n q", "dying")
    for remote in (dying, remotes[0]):
        pool.give("there", remote)
    dying.stream.write(b"\n")
    with pytest.raises(ConnectionLost):
        dying.stream.available()
    pool.tidy()
    assert dying.stream.closed
    assert pool.take("there") is remotes[0]


def test_closing_the_pool_closes_what_is_in_it(remotes: list[Remote]) -> None:
    """The broker leaves no ssh behind."""
    pool = Pool()
    for remote in remotes:
        pool.give("there", remote)
    pool.close()
    assert all(remote.stream.closed for remote in remotes)
