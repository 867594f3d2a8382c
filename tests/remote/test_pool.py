"""Warm connections: only clean ones are kept, each has one user at a time, none is kept for ever."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from hook.errors import ConnectionLost, MachineError
from hook.front.log import Log
from hook.protocol.client import StoreClient
from hook.remote import pool as pool_module
from hook.remote.child import Command
from hook.remote.connection import (
    LEAST_BYTES,
    LONGEST_S,
    MOST_BUILDS,
    RENEW_BUILDS,
    RENEW_BYTES,
    RENEW_LOGIN_S,
    RENEW_S,
    Address,
    Link,
    Remote,
)
from hook.remote.pool import MOST_OPENED, TOGETHER_S, Pool


class Answered(Remote):
    """One that needs no handshake."""

    def _shake_hands(self) -> StoreClient:
        return cast(StoreClient, SimpleNamespace(idle=True))


def connected(program: str, name: str) -> Remote:
    """A connection over which everything that was asked is answered."""
    return Answered(Link(Address(Command(tuple(program.split()), dict(os.environ)), "ssh-ng", name)))


def prompt(idle_s: float = 60) -> Pool:
    """A pool that leaves nothing to do for later."""
    return Pool(idle_s, run=lambda work: work())


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
    pool = prompt()
    for remote in remotes:
        pool.give("there", remote)
    assert pool.take("there") is remotes[1]
    assert pool.take("there") is remotes[0]
    assert pool.take("there") is None


def test_the_last_words_of_a_build_are_passed_on_while_its_user_is_there(
    remotes: list[Remote], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may have to wait for a reader."""
    remote = remotes[0]
    remote.attach(Log(2, 3), 0)
    watched: list[int | None] = []
    monkeypatch.setattr(remote.stream, "copy_stderr", lambda fd: watched.append(remote.stream.hangup_fd))
    remote.detach()
    assert (watched, remote.stream.hangup_fd) == ([0], None)


def test_a_connection_leads_where_it_was_made_for(remotes: list[Remote]) -> None:
    """Another key or user is another destination."""
    pool = prompt()
    pool.give("there", remotes[0])
    assert pool.take("elsewhere") is None
    assert pool.take("there") is remotes[0]


def test_all_that_lead_to_one_place_can_be_dropped(remotes: list[Remote]) -> None:
    """One of them broke; the other places have nothing to do with it."""
    pool = prompt()
    pool.give("there", remotes[0])
    pool.give("elsewhere", remotes[1])
    pool.drop("there")
    pool.drop("nowhere")
    assert remotes[0].stream.closed
    assert pool.take("there") is None
    assert pool.take("elsewhere") is remotes[1]


def test_a_connection_with_something_unread_is_closed(remotes: list[Remote]) -> None:
    """It would be taken for the answer to the next request."""
    pool = prompt()
    remotes[0].stream.write(b"left over")
    remotes[0].stream.available()
    pool.give("there", remotes[0])
    assert pool.take("there") is None
    assert remotes[0].stream.closed


def test_a_connection_with_something_unsent_is_closed(remotes: list[Remote]) -> None:
    """The machine would take it for the beginning of the next request."""
    pool = prompt()
    remotes[0].stream.write(b"x")
    pool.give("there", remotes[0])
    assert pool.take("there") is None


def test_a_connection_that_still_owes_an_answer_is_closed(remotes: list[Remote]) -> None:
    """Nothing may have arrived of it yet; it would be taken for the answer to the next request."""
    pool = prompt()
    remotes[0].client = cast(StoreClient, SimpleNamespace(idle=False))
    pool.give("there", remotes[0])
    assert pool.take("there") is None
    assert remotes[0].stream.closed


def test_a_connection_that_was_retired_is_closed(remotes: list[Remote]) -> None:
    """Its machine remembers something that is not to be believed."""
    pool = prompt()
    remotes[0].retire()
    pool.give("there", remotes[0])
    assert pool.take("there") is None
    assert remotes[0].stream.closed


def test_what_is_known_of_a_machine_lasts_as_long_as_a_connection_to_it(remotes: list[Remote]) -> None:
    """All of its connections share it; the next machine of that name may have an empty store."""
    pool = prompt()
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
    pool = prompt()
    known = pool.known("there")
    known.add(["a"])
    pool.give("there", remotes[0])
    remotes[0].client = cast(StoreClient, SimpleNamespace(idle=False))
    getattr(pool, doubt)("there")
    assert known.unknown(["a"]) == ["a"]


def test_a_connection_that_died_while_idle_is_not_handed_out() -> None:
    """The machine was rebooted meanwhile; the next older connection may still be good."""
    pool = prompt()
    dead = connected("true", "dead")
    dead.stream.silence_s = 10
    with pytest.raises(Exception, match="end of file"):
        dead.stream.available()
    pool.give("there", dead)
    assert pool.take("there") is None
    assert dead.stream.closed


def test_idle_connections_are_closed_after_their_time(remotes: list[Remote]) -> None:
    """And not before."""
    patient, hasty = prompt(idle_s=3600), prompt(idle_s=-1)
    patient.give("there", remotes[0])
    hasty.give("there", remotes[1])
    patient.tidy()
    hasty.tidy()
    assert patient.take("there") is remotes[0]
    assert hasty.take("there") is None
    assert remotes[1].stream.closed


def test_a_connection_that_died_while_idle_is_closed_before_its_time(remotes: list[Remote]) -> None:
    """Its ssh would stay as a zombie, with a place on a shared connection; those that live are kept."""
    pool = prompt()
    dying = connected("sed -n q", "dying")
    for remote in (dying, remotes[0]):
        pool.give("there", remote)
    dying.stream.write(b"\n")
    with pytest.raises(ConnectionLost):
        dying.stream.available()
    pool.tidy()
    assert dying.stream.closed
    assert pool.take("there") is remotes[0]


class Deferred:
    """Work for later, done when the test says so."""

    def __init__(self) -> None:
        self.work: list[Callable[[], object]] = []

    def __call__(self, work: Callable[[], object]) -> None:
        self.work.append(work)

    def do(self) -> None:
        while self.work:
            self.work.pop(0)()


def wear(remote: Remote, **use: float) -> None:
    for name, value in use.items():
        if name == "longest_s":
            remote.address = replace(remote.address, longest_s=value)
        else:
            setattr(remote.stream if name == "bytes_in" else remote, name, value)


def refuse() -> Remote:
    raise MachineError("no way there")


WORN = {
    "age": {"begun_at": -RENEW_S - 1},
    "login": {"login_at": -RENEW_LOGIN_S - 1},
    "builds": {"builds": RENEW_BUILDS},
    "bytes": {"bytes_in": RENEW_BYTES},
    "own age": {"longest_s": 18.0, "begun_at": -9.5},
}
WORN_OUT = {
    "age": {"begun_at": -LONGEST_S},
    "login": {"login_at": -LONGEST_S},
    "builds": {"builds": MOST_BUILDS},
    "bytes": {"bytes_in": 2 * RENEW_BYTES},
    "own age": {"longest_s": 1.0, "begun_at": -1.0},
    "no age": {"longest_s": 0},
}


def since_now(use: dict[str, float]) -> dict[str, float]:
    return {name: time.monotonic() + value if name.endswith("_at") else value for name, value in use.items()}


@pytest.mark.parametrize("use", WORN)
def test_another_one_is_opened_before_it_is_needed(remotes: list[Remote], use: str) -> None:
    """A build that comes meanwhile takes the one that is there; then that one is closed, and one is opened for it."""
    later = Deferred()
    pool = Pool(run=later)
    old, new = remotes
    wear(old, **since_now(WORN[use]))
    for _ in range(2):
        pool.give("there", old, lambda: new)
        assert len(later.work) == 1
        assert pool.take("there") is old
    pool.give("there", old, refuse)
    later.do()
    assert old.stream.closed
    assert pool.take("there") is new


def renewing(old: Remote, new: Remote) -> tuple[Pool, Deferred]:
    """A pool that has `old`, which is worn, and is to open `new` in its place."""
    later = Deferred()
    pool = Pool(run=later)
    wear(old, begun_at=time.monotonic() - RENEW_S - 1)
    pool.give("there", old, lambda: new)
    return pool, later


def test_one_that_is_in_use_when_another_has_come_is_closed_afterwards(remotes: list[Remote]) -> None:
    """The build on it goes on to its end."""
    old, new = remotes
    pool, later = renewing(old, new)
    assert pool.take("there") is old
    later.do()
    assert not old.stream.closed
    assert pool.take("there") is new
    pool.give("there", old, refuse)
    later.do()
    assert old.stream.closed


@pytest.mark.parametrize("use", WORN_OUT)
def test_no_build_begins_with_one_that_is_worn_out(remotes: list[Remote], use: str) -> None:
    """Whether that shows when it is given back, when it is taken, or when nobody comes."""
    later = Deferred()
    pool = Pool(run=later)
    given, kept = remotes
    pool.give("there", kept)
    for remote in remotes:
        wear(remote, **since_now(WORN_OUT[use]))
    pool.give("there", given)
    assert pool.take("there") is None
    later.do()
    assert given.stream.closed
    assert kept.stream.closed


def test_the_more_jobs_a_machine_has_the_less_goes_over_each(remotes: list[Remote]) -> None:
    """What all of them keep alive counts; but each may be used for something."""
    renewed = []
    for jobs in (0, 1, 2, 64):
        remote = Answered(Link(replace(remotes[0].address, jobs=jobs)))
        remote.stream.bytes_in = LEAST_BYTES
        renewed.append(remote.is_worn)
        remote.stream.bytes_out = RENEW_BYTES // 2 - LEAST_BYTES
        renewed.append(remote.is_worn)
        remote.close()
    assert renewed == [False, False, False, False, False, True, True, True]


def test_one_that_is_worn_out_while_idle_is_closed(remotes: list[Remote]) -> None:
    pool = prompt()
    pool.give("there", remotes[0])
    wear(remotes[0], login_at=time.monotonic() - LONGEST_S)
    pool.tidy()
    assert remotes[0].stream.closed


def test_an_idle_pool_opens_nothing(remotes: list[Remote]) -> None:
    """A machine that nobody builds on is left alone."""
    later = Deferred()
    pool = Pool(run=later)
    pool.give("there", remotes[0], lambda: remotes[1])
    wear(remotes[0], begun_at=time.monotonic() - LONGEST_S)
    pool.tidy()
    assert later.work == []


def test_where_no_other_can_be_opened_the_old_one_is_used_to_its_end(remotes: list[Remote]) -> None:
    """Whoever needs a connection then finds out why."""
    pool = prompt()
    wear(remotes[0], begun_at=time.monotonic() - RENEW_S - 1)
    pool.give("there", remotes[0], refuse)
    assert pool.take("there") is remotes[0]


def test_where_none_could_be_opened_it_is_tried_again_a_little_later(
    remotes: list[Remote], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one still serves builds, each of which would otherwise have its machine tried."""
    monkeypatch.setattr(pool_module, "LONGEST_REST_S", 3600.0)
    later = Deferred()
    pool = Pool(run=later)
    old, new = remotes
    wear(old, begun_at=time.monotonic() - RENEW_S - 1)
    old.stream.bytes_in = RENEW_BYTES
    for expected in (1, 0):
        pool.give("there", old, refuse)
        assert len(later.work) == expected
        later.do()
        assert pool.take("there") is old
    pool._failed["there"] = time.monotonic()
    pool.give("there", old, lambda: new)
    later.do()
    assert pool.take("there") is new


@pytest.mark.parametrize("idle", [True, False])
def test_what_is_being_opened_to_a_machine_that_is_dropped_is_not_kept(remotes: list[Remote], idle: bool) -> None:
    """It may have the same fault, whether or not another one leads there."""
    old, new = remotes
    pool, later = renewing(old, new)
    if not idle:
        assert pool.take("there") is old
    pool.drop_machine("a")
    later.do()
    assert new.stream.closed
    assert pool.take("there") is None


def test_they_are_opened_one_after_the_other_with_a_rest_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds go on meanwhile, and need the processors; the others keep what they have, and are next."""
    later = Deferred()
    pool = Pool(run=later)
    old = [connected("cat", "old") for _ in range(3)]
    for remote in old:
        wear(remote, begun_at=time.monotonic() - RENEW_S - 1)
        pool.give("there", remote, refuse)
    assert len(later.work) == 1
    monkeypatch.setattr(pool_module, "REST", 1e9)
    monkeypatch.setattr(pool_module, "LONGEST_REST_S", 3600.0)
    later.do()
    pool._failed.clear()
    assert pool.take("there") is old[2]
    pool.give("there", old[2], refuse)
    assert later.work == []
    pool.give("elsewhere", connected("cat", "other"), refuse)
    pool._not_before.clear()
    pool.give("there", old[1], refuse)
    assert len(later.work) == 1
    pool.close()


def test_those_that_much_went_over_do_not_wait_but_not_many_at_once() -> None:
    """They keep most alive there."""
    later = Deferred()
    pool = Pool(run=later)
    old = [connected("cat", "old") for _ in range(MOST_OPENED + 1)]
    for remote in old:
        wear(remote, bytes_in=RENEW_BYTES)
        pool.give("there", remote, refuse)
    assert len(later.work) == MOST_OPENED
    later.do()
    pool.close()


@pytest.mark.parametrize("drop", ["drop", "drop_machine"])
def test_what_was_being_opened_when_all_were_dropped_is_closed(remotes: list[Remote], drop: str) -> None:
    """It may have what the others had."""
    pool, later = renewing(*remotes)
    getattr(pool, drop)("there" if drop == "drop" else "a")
    assert remotes[0].stream.closed
    later.do()
    assert remotes[1].stream.closed
    assert pool.take("there") is None


@pytest.mark.parametrize("drop", ["drop", "drop_machine"])
def test_what_is_dropped_elsewhere_is_no_fault_of_one_that_is_being_opened(remotes: list[Remote], drop: str) -> None:
    """A machine that comes and goes must not keep the connections to all others from being renewed."""
    old, new = remotes
    pool, later = renewing(old, new)
    getattr(pool, drop)("elsewhere")
    later.do()
    assert pool.take("there") is new


def test_one_whose_successor_was_dropped_gets_another(remotes: list[Remote]) -> None:
    """It was in use when all were dropped, and works."""
    later = Deferred()
    pool = Pool(run=later)
    old, new = remotes
    dropped = connected("cat", "dropped")
    wear(old, bytes_in=RENEW_BYTES)
    pool.give("there", old, lambda: dropped)
    assert pool.take("there") is old
    pool.drop("there")
    later.do()
    assert dropped.stream.closed
    pool.give("there", old, lambda: new)
    later.do()
    assert pool.take("there") is new


def test_one_that_was_begun_before_is_not_taken(remotes: list[Remote]) -> None:
    """What it was refused may have been mended since."""
    pool = prompt()
    pool.give("there", remotes[0])
    pool.give("there", remotes[1])
    now = time.monotonic()
    wear(remotes[0], begun_at=now + 1, login_at=now + 1)
    assert pool.take("there", since=now) is remotes[0]
    assert remotes[1].stream.closed


def test_one_whose_login_was_begun_before_is_not_taken(remotes: list[Remote]) -> None:
    """Its session is newer, and what the login may do is not."""
    pool = prompt()
    now = time.monotonic()
    wear(remotes[0], begun_at=now + 1)
    pool.give("there", remotes[0])
    assert pool.take("there", since=now) is None
    assert remotes[0].stream.closed


def test_what_is_known_is_forgotten_when_what_protects_it_ends(remotes: list[Remote]) -> None:
    """A collector there spares only what belongs to a connection that lasts."""
    pool = prompt()
    for remote in remotes:
        remote.known = pool.known("there")
    known = remotes[1].known
    known.add(["a"])
    remotes[0].close()
    assert known.unknown(["a"]) == ["a"]


def test_connections_that_are_begun_later_know_nothing_of_earlier_ones(
    remotes: list[Remote], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be known for as long as builds come; a doubt is one of all of them."""
    pool = prompt()
    early = remotes[0].known = pool.known("there")
    early.add(["a"])
    early.begun_at -= TOGETHER_S
    late = remotes[1].known = pool.known("there")
    assert late.unknown(["a"]) == ["a"]
    late.add(["a"])
    pool.doubt("there")
    assert early.unknown(["a"]) == late.unknown(["a"]) == ["a"]


def test_closing_the_pool_closes_what_is_in_it(remotes: list[Remote]) -> None:
    """The broker leaves no ssh behind."""
    pool = prompt()
    for remote in remotes:
        pool.give("there", remote)
    pool.close()
    assert all(remote.stream.closed for remote in remotes)


def test_what_is_not_kept_is_nowhere(remotes: list[Remote]) -> None:
    """A connection that is closed and kept would be counted, and be found unclean by the next build only."""
    pool = prompt()
    remotes[0].retire()
    pool.give("there", remotes[0], refuse)
    assert pool.idle() == {}
    remotes[1].begun_at -= LONGEST_S
    pool.give("there", remotes[1])
    assert pool.idle() == {}
    assert all(remote.stream.closed for remote in remotes)
