"""Warm connections: handshaken, idle, and known to be clean.

A connection is taken by one session at a time and given back only after a whole build, with nothing unread and nothing
unsent; whoever is in doubt closes it instead.  Connections are kept per destination, which is everything that went into
making one: command line, the environment that ssh looks at, and the options set on it.
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterator

from hook.remote import Remote

IDLE_S = 60.0
"""How long an unused connection is kept."""


class Pool:
    """Idle connections by destination."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._idle: dict[Hashable, list[tuple[float, Remote]]] = {}

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

    def give(self, destination: Hashable, remote: Remote) -> None:
        """Keep a connection for the next session, or close it if it is not clean."""
        if not remote.is_clean():
            remote.close()
            return
        with self._lock:
            self._idle.setdefault(destination, []).append((time.monotonic(), remote))

    def drop(self, destination: Hashable) -> None:
        """Close what leads to `destination`."""
        with self._lock:
            removed = self._idle.pop(destination, [])
        for _, remote in removed:
            remote.close()

    def tidy(self) -> None:
        """Close what was not used for long."""
        oldest = time.monotonic() - self._idle_s
        for remote in self._remove(lambda since: since < oldest):
            remote.close()

    def close(self) -> None:
        """Close everything."""
        for remote in self._remove(lambda since: True):
            remote.close()

    def _remove(self, chosen: Callable[[float], bool]) -> Iterator[Remote]:
        with self._lock:
            removed = [remote for kept in self._idle.values() for since, remote in kept if chosen(since)]
            for destination, kept in list(self._idle.items()):
                self._idle[destination] = [entry for entry in kept if not chosen(entry[0])]
                if not self._idle[destination]:
                    del self._idle[destination]
        yield from removed
