"""Locks around memory: whatever a thread of a broker does with what all of them share, it holds the lock meanwhile.

A race shows once in a million times; so each method is called once, with containers that look whether the lock is held.
"""

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hook.errors import MachineError
from hook.front.caller import Caller
from hook.machines.backlog import Backlog
from hook.machines.health import Health
from hook.machines.places import LookAhead
from hook.machines.queue import SlotQueue
from hook.remote.pool import Pool
from hook.remote.sharing import Sharing
from hook.session.ledger import Ledger, Outcome, Phase
from hook.transfer.claims import Uploads
from hook.transfer.meter import Meter
from tests.guarded import Guarded, guard

DRV = "/nix/store/00000000000000000000000000000001-a.drv"


class Key(SimpleNamespace):
    """A machine, as Health knows it."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def use_health(health: Health, tmp_path: Path) -> None:
    machine = cast(Any, Key(uri="ssh-ng://b1"))
    health.worked(machine)
    health.ear(machine)()
    health.is_fresh(machine), health.is_proven(machine), health.answered_s_ago(machine)
    health.failed(machine, "gone")
    health.obstacle(machine), health.failures(machine)
    health.trying(machine)
    health.abandoned(machine)
    health.doubt(machine)
    health.built(machine)
    health.forgive("ssh-ng://b1")
    health.trusts(machine, trusted=False, begun_at=1.0)
    health.trusts(machine, trusted=True, begun_at=2.0)
    health.refused(machine, "no")
    assert health.distrust(machine)


def use_look_ahead(look_ahead: LookAhead, tmp_path: Path) -> None:
    at, slot = cast(Any, "at"), cast(Any, object())
    look_ahead.enter(at)
    assert look_ahead.count(at) == 1
    look_ahead.lend(at, slot)
    assert look_ahead.lent(at) == 1
    assert look_ahead.take_back(at, slot)
    look_ahead.lend(at, slot)
    assert look_ahead.borrow(at) is slot
    look_ahead.leave(at)


def use_queue(queue: SlotQueue, tmp_path: Path) -> None:
    hangup, end = os.pipe()
    caller = Caller(-1, -1, -1, "3", {}, os.getpid(), hangup)
    kind, at = cast(Any, "kind"), cast(Any, "at")
    with queue.first(kind, caller, at) as ticket:
        assert queue.awaited(at)
        assert not queue.anywhere(kind)
        queue.freed()
        queue.wait(ticket, caller)
    os.close(end)
    os.close(hangup)


def use_backlog(backlog: Backlog, tmp_path: Path) -> None:
    class Held:
        is_held = True

    at, slot = cast(Any, "at"), cast(Any, Held())
    backlog.enter([at])
    backlog.occupied(slot, at, DRV)
    backlog.ran(at, DRV, 1.0)
    backlog.starts_soon([at], DRV)
    backlog.is_news((1, DRV), ("busy",))
    backlog.leave([at])


def use_pool(pool: Pool, tmp_path: Path) -> None:
    class Connection(SimpleNamespace):
        name = "b1"
        is_worn = is_worn_out = is_followed = is_heavy = False
        login_at = 1.0

        def is_clean(self) -> bool:
            return True

        def close(self) -> None:
            """Nothing to end."""

        retire = close

    there = cast(Any, "there")

    def refuse() -> Any:
        raise MachineError("no way there")

    def one(**how: object) -> Any:
        return Connection(**how)

    assert pool.known(there) is pool.known(there)
    pool.give(there, one())
    assert pool.idle() == {"b1": 1}
    assert pool.take(there) is not None
    pool.give(there, one(is_worn=True), one)
    pool.give(there, one(is_worn=True), refuse)
    pool.doubt(there)
    pool.tidy()
    pool.drop_machine("b1")
    pool.drop(there)
    pool.close()


def use_sharing(sharing: Sharing, tmp_path: Path) -> None:
    there = cast(Any, "there")
    seat = sharing.join(there, (), str(tmp_path)[:20])
    if seat is not None:
        seat.leave()
    sharing.renew(there)
    sharing.tidy()


def use_ledger(ledger: Ledger, tmp_path: Path) -> None:
    told = ledger.conversation(Meter())
    ledger.meet("private", [])
    told.decided(DRV, "accept", [("b1", "chosen")])
    told.answered_again("postpone")
    told.begin(DRV, "b1")
    told.promise(["b1"])
    told.enter(Phase.BUILDING)
    assert len(ledger.standing()[0]) == 1
    told.end(Outcome.BUILT)
    ledger.machines(), ledger.answers()
    ledger.flush(str(tmp_path))


def use_uploads(uploads: Uploads, tmp_path: Path) -> None:
    ended = uploads.ended("b1")
    with uploads.claimed("b1", {"/nix/store/a"}, ended, lambda paths: paths, nullcontext(), lambda _: None):
        pass
    uploads.end("b1")
    assert uploads.ended("b1") == 2


SHARED: dict[str, tuple[Callable[[], Any], Callable[[Any, Path], None]]] = {
    "health": (lambda: Health(lambda: 0.0, jitter=lambda: 0.5), use_health),
    "look-ahead": (lambda: LookAhead(lambda: None), use_look_ahead),
    "queue": (SlotQueue, use_queue),
    "backlog": (lambda: Backlog(lambda: 0.0), use_backlog),
    "pool": (lambda: Pool(run=lambda work: work()), use_pool),
    "sharing": (Sharing, use_sharing),
    "ledger": (lambda: Ledger(lambda: 0.0), use_ledger),
    "uploads": (lambda: Uploads(shared=True), use_uploads),
}


@pytest.mark.parametrize("name", SHARED)
def test_what_threads_share_is_touched_under_its_lock_only(name: str, tmp_path: Path) -> None:
    """Each method once, by one thread; the lock is free again afterwards."""
    make, use = SHARED[name]
    shared = make()
    assert guard(shared)
    use(shared, tmp_path)
    assert not shared._lock.locked()


def test_whoever_touches_it_without_the_lock_is_noticed() -> None:
    """A check that finds nothing wrong must be one that could."""
    health = Health(lambda: 0.0)
    assert "_records" in guard(health)
    with pytest.raises(AssertionError, match="without the lock"):
        health._records.get(cast(Any, "machine"))
    assert isinstance(health._records, Guarded)
