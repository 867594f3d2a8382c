"""Warm connections: handshaken, idle, and known to be clean.

A connection is taken by one session at a time and given back only after a whole build, with nothing unread and nothing
unsent; whoever is in doubt closes it instead.  Connections are kept per destination, which is everything that went into
making one: command line, what ssh makes of it, and the options set on it.  None is kept for long: see Remote on when
another one takes its place, which is opened meanwhile, and only as long as builds come.  Tested in test_pool.py.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakSet

from hook.errors import FerryError
from hook.machines.identity import Destination
from hook.remote.connection import Remote
from hook.remote.known import KnownPaths

IDLE_S = 60.0
"""How long an unused connection is kept."""

TOGETHER_S = 20.0
"""Connections that are begun within this time share what is known of the machine."""

MOST_OPENED = 8
"""How many connections are opened at once to take the place of others."""

REST, LONGEST_REST_S = 20, 3.0
"""To open one takes two processes their time on both sides, which builds could use: after it, the next one to the same
place waits so many times as long.  There is time: many builds may begin with a connection that is to be replaced."""


def in_background(work: Callable[[], object]) -> None:
    """Do it in a thread of its own, for which nobody waits, if there can be one."""
    try:
        threading.Thread(target=work, daemon=True).start()
    except RuntimeError:
        work()


@dataclass(eq=False, slots=True)
class _Successor:
    """A connection that is being opened to take the place of `old`, unless it is `dropped` before it is there."""

    destination: Destination
    old: Remote
    dropped: bool = False


class Pool:
    """Idle connections by destination.  What would keep a build waiting is done by `run`."""

    def __init__(self, idle_s: float = IDLE_S, run: Callable[[Callable[[], object]], None] = in_background) -> None:
        self._idle_s = idle_s
        self._run = run
        self._lock = threading.Lock()
        self._idle: dict[Destination, list[tuple[float, Remote]]] = {}
        self._known: dict[Destination, WeakSet[KnownPaths]] = {}
        self._opening: set[_Successor] = set()
        self._not_before: dict[Destination, float] = {}
        self._failed: dict[Destination, float] = {}
        """Until when none is opened, because the last one could not be."""

    def take(self, destination: Destination, since: float = 0.0) -> Remote | None:
        """A connection that was usable a moment ago, and whose login was begun after `since`; None if there is none.

        The one used last, since it is the least likely dead, but one that is to be replaced only if there is no other.
        """
        while True:
            with self._lock:
                kept = self._idle.get(destination)
                if not kept:
                    return None
                index = next((i for i in reversed(range(len(kept))) if not kept[i][1].is_worn), -1)
                _, remote = kept.pop(index)
            if not remote.is_clean():
                remote.close()
                self.doubt(destination)
            elif remote.is_worn_out or remote.login_at < since:
                self._close(remote)
            else:
                return remote

    def known(self, destination: Destination) -> KnownPaths:
        """What is known of the machine there: one object for connections begun together, while any of them lasts."""
        now = time.monotonic()
        with self._lock:
            all_known = self._known.setdefault(destination, WeakSet())
            known = next((known for known in all_known if now - known.begun_at < TOGETHER_S), None)
            if known is None:
                known = KnownPaths()
                all_known.add(known)
            return known

    def idle(self) -> Counter[str]:
        """How many connections are idle, by the name of their machine."""
        with self._lock:
            return Counter(remote.name for kept in self._idle.values() for _, remote in kept)

    def doubt(self, destination: Destination) -> None:
        """Something there is not as expected: forget what is known of the machine."""
        with self._lock:
            all_known = list(self._known.get(destination, ()))
        for known in all_known:
            known.forget()

    def give(self, destination: Destination, remote: Remote, again: Callable[[], Remote] | None = None) -> None:
        """Keep a connection for the next session, or close it if it is not clean or not to be used any more.

        `again` opens another one that leads there, or raises FerryError.
        """
        if not remote.is_clean():
            self._close(remote)
            return
        is_to_be_followed = again is not None and remote.is_worn and not remote.is_followed
        if remote.is_worn_out:
            self._close(remote)
        else:
            with self._lock:
                self._idle.setdefault(destination, []).append((time.monotonic(), remote))
        if again is not None and is_to_be_followed:
            self._begin(destination, remote, again)

    def drop(self, destination: Destination) -> None:
        """Close what leads to `destination`, and forget what is known of the machine."""
        self.doubt(destination)
        with self._lock:
            self._drop_successors(lambda each: each.destination == destination)
            removed = self._idle.pop(destination, [])
        for _, remote in removed:
            remote.close()

    def drop_machine(self, name: str) -> None:
        """The same for every way that leads to the machine of this name."""
        with self._lock:
            self._drop_successors(lambda each: each.old.name == name)
            destinations = [where for where, kept in self._idle.items() if any(each.name == name for _, each in kept)]
        for destination in destinations:
            self.drop(destination)

    def tidy(self) -> None:
        """Close what was not used for long or is too old, and what has died meanwhile."""
        oldest = time.monotonic() - self._idle_s
        for remote in self._remove(lambda since, r: since < oldest or r.is_worn_out or not r.is_clean()):
            remote.close()
        with self._lock:
            self._known = {destination: known for destination, known in self._known.items() if known}
            now = time.monotonic()
            self._not_before = {destination: at for destination, at in self._not_before.items() if at > now}
            self._failed = {destination: at for destination, at in self._failed.items() if at > now}

    def close(self) -> None:
        """Close everything."""
        with self._lock:
            self._drop_successors(lambda _: True)
        for remote in self._remove(lambda *_: True):
            remote.close()

    def _drop_successors(self, chosen: Callable[[_Successor], bool]) -> None:
        """What is being opened while others are dropped may have the same fault."""
        for successor in filter(chosen, self._opening):
            successor.dropped = True

    def _close(self, remote: Remote) -> None:
        # Its child may take a moment to end.
        self._run(remote.close)

    def _begin(self, destination: Destination, old: Remote, again: Callable[[], Remote]) -> None:
        """Have a connection opened that takes the place of `old`, unless it is better done a little later."""
        with self._lock:
            if len(self._opening) >= MOST_OPENED:
                return
            now = time.monotonic()
            opens_one = any(each.destination == destination for each in self._opening)
            resting = opens_one or now < self._not_before.get(destination, 0.0)
            if (resting and not old.is_heavy) or now < self._failed.get(destination, 0.0):
                return
            successor = _Successor(destination, old)
            self._opening.add(successor)
            old.is_followed = True
        self._run(lambda: self._replace(successor, again))

    def _replace(self, successor: _Successor, again: Callable[[], Remote]) -> None:
        begun = time.monotonic()
        new = None
        try:
            # Whoever needs one finds out what is wrong, and tells its user.
            with suppress(FerryError):
                new = again()
        finally:
            useless = self._settle(successor, new, time.monotonic() - begun)
        if useless is not None:
            useless.close()

    def _settle(self, successor: _Successor, new: Remote | None, took_s: float) -> Remote | None:
        """Keep `new` in the place of the old one, if it came and was not dropped; returns what is to be closed."""
        destination, old = successor.destination, successor.old
        with self._lock:
            now = time.monotonic()
            self._opening.discard(successor)
            self._not_before[destination] = now + min(REST * took_s, LONGEST_REST_S)
            if new is None:
                self._failed[destination] = now + LONGEST_REST_S
            if new is None or successor.dropped:
                # The next build over it has it tried again.
                old.is_followed = False
                return new
            kept = self._idle.get(destination, [])
            was_idle = any(each is old for _, each in kept)
            # In front: one that is not worn is taken first anyway.
            self._idle[destination] = [(now, new), *(entry for entry in kept if entry[1] is not old)]
        if was_idle:
            return old
        old.retire()
        return None

    def _remove(self, chosen: Callable[[float, Remote], bool]) -> Iterator[Remote]:
        removed: list[Remote] = []
        with self._lock:
            for destination, entries in list(self._idle.items()):
                kept = self._idle[destination] = []
                for since, remote in entries:
                    if chosen(since, remote):
                        removed.append(remote)
                    else:
                        kept.append((since, remote))
                if not kept:
                    del self._idle[destination]
        yield from removed
