"""Databases that one build leaves open for the next: opening one takes half a millisecond, and Nix waits for it.

An open one keeps Nix from migrating the store to another schema, so they are soon closed when nobody uses them.
Tested in store/test_databases.py.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hook.store.database import Database

IDLE_S = 2.0
MAX_IDLE = 16


class Access(NamedTuple):
    """Which database, and how: the arguments of `Database.open`."""

    state_dir: str
    wal: bool
    fsync_metadata: bool


class Databases:
    """Open databases, at most `max_idle` of a kind, that nobody uses at the moment; thread-safe."""

    def __init__(self, idle_s: float = IDLE_S, max_idle: int = MAX_IDLE) -> None:
        self._idle_s = idle_s
        self._max_idle = max_idle
        self._lock = threading.Lock()
        self._idle: defaultdict[Access, list[tuple[float, Database]]] = defaultdict(list)

    def take(self, access: Access, pause: Callable[[float], object] = time.sleep) -> "Database":
        """One that only the caller uses until it gives it back, and that waits by `pause`; errors as of its `open`."""
        while True:
            with self._lock:
                if not self._idle[access]:
                    break
                _, database = self._idle[access].pop()
            if database.is_usable():
                database.pause = pause
                return database
            database.close()
        # Loaded on first use: most requests are answered without SQLite.
        from hook.store.database import Database

        return Database.open(access.state_dir, wal=access.wal, fsync_metadata=access.fsync_metadata, pause=pause)

    def give(self, access: Access, database: "Database") -> None:
        """Keep it for the next one, or close it."""
        with self._lock:
            kept = self._idle[access]
            if len(kept) < self._max_idle:
                kept.append((time.monotonic(), database))
                return
        database.close()

    def tidy(self) -> None:
        """Close what was not used for a moment."""
        self._close(time.monotonic() - self._idle_s)

    def close(self) -> None:
        """Close all."""
        self._close(float("inf"))

    def _close(self, before: float) -> None:
        with self._lock:
            old = [database for kept in self._idle.values() for since, database in kept if since <= before]
            for key, kept in list(self._idle.items()):
                self._idle[key] = [entry for entry in kept if entry[0] > before]
                if not self._idle[key]:
                    del self._idle[key]
        for database in old:
            database.close()
