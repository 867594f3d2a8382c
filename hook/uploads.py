"""Paths on their way to a machine, so that no two builds of one broker send the same one.

A build waits until none of the paths it needs there is in flight, asks again which of them are missing, and claims all
of those at once.  It holds no claim while it waits, so builds cannot wait for each other in a circle; builds that need
different paths never wait.
"""

import threading
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, contextmanager

PAUSE_S = 0.02


class Uploads:
    """Claims by machine; thread-safe.  `shared` if builds of other conversations claim here, too."""

    def __init__(self, *, shared: bool) -> None:
        self.shared = shared
        self._lock = threading.Lock()
        self._in_flight: dict[str, set[str]] = {}

    @contextmanager
    def claimed(
        self,
        machine: str,
        missing: AbstractSet[str],
        ask: Callable[[AbstractSet[str]], AbstractSet[str]],
        waiting: AbstractContextManager[object],
        pause: Callable[[float], object],
    ) -> Iterator[AbstractSet[str]]:
        """Claim those of `missing` that are still missing when nobody else is sending any of them; yields them.

        `ask` returns which of the paths given to it are missing there now; `pause` waits for as many seconds; `waiting`
        is entered meanwhile.
        """
        with waiting:
            while not self._claim(machine, missing):
                pause(PAUSE_S)
                if not self._busy(machine, missing):
                    missing = ask(missing)
        try:
            yield missing
        finally:
            with self._lock:
                self._in_flight[machine] -= missing
                if not self._in_flight[machine]:
                    del self._in_flight[machine]

    def _claim(self, machine: str, paths: AbstractSet[str]) -> bool:
        with self._lock:
            in_flight = self._in_flight.setdefault(machine, set())
            if in_flight & paths:
                return False
            in_flight |= paths
            return True

    def _busy(self, machine: str, paths: AbstractSet[str]) -> bool:
        with self._lock:
            return bool(self._in_flight.get(machine, set()) & paths)
