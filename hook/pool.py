"""Warm connections: handshaken, idle, and known to be clean.

A connection is taken by one session at a time and given back only after a whole build, with nothing unread and nothing
unsent; whoever is in doubt closes it instead.  Connections are kept per destination, which is everything that went into
making one: command line, the environment that ssh looks at, and the options set on it.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from weakref import WeakValueDictionary

from hook.known import KnownPaths
from hook.remote import Remote

IDLE_S = 60.0
"""How long an unused connection is kept."""


class Pool:
    """Idle connections by destination."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._idle: dict[Hashable, list[tuple[float, Remote]]] = {}
        self._known: WeakValueDictionary[Hashable, KnownPaths] = WeakValueDictionary()

    def take(self, destination: Hashable) -> Remote | None:
        """A connection that was usable a moment ago, or None; the one used last, since it is the least likely dead."""
        while True:
            with self._lock:
                kept = self._idle.get(destination)
                if not kept:
                    return None
                _, remote = kept.pop()
            if remote.is_clean():
                return remote
            remote.close()
            self.doubt(destination)

    def known(self, destination: Hashable) -> KnownPaths:
        """What is known of the machine there: one object for all connections, which lasts as long as any of them."""
        with self._lock:
            return self._known.setdefault(destination, KnownPaths())

    def idle(self) -> Counter[str]:
        """How many connections are idle, by the name of their machine."""
        with self._lock:
            return Counter(remote.name for kept in self._idle.values() for _, remote in kept)

    def doubt(self, destination: Hashable) -> None:
        """Something there is not as expected: forget what is known of the machine."""
        self.known(destination).forget()

    def give(self, destination: Hashable, remote: Remote) -> None:
        """Keep a connection for the next session, or close it if it is not clean."""
        if not remote.is_clean():
            remote.close()
            return
        with self._lock:
            self._idle.setdefault(destination, []).append((time.monotonic(), remote))

    def drop(self, destination: Hashable) -> None:
        """Close what leads to `destination`, and forget what is known of the machine."""
        self.doubt(destination)
        with self._lock:
            removed = self._idle.pop(destination, [])
        for _, remote in removed:
            remote.close()

    def tidy(self) -> None:
        """Close what was not used for long, and what has died meanwhile."""
        oldest = time.monotonic() - self._idle_s
        for remote in self._remove(lambda since, remote: since < oldest or not remote.is_clean()):
            remote.close()

    def close(self) -> None:
        """Close everything."""
        for remote in self._remove(lambda *_: True):
            remote.close()

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
