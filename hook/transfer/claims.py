"""Paths on their way to a machine, so that no two builds of one broker send the same one.

A build that found paths missing claims all of them at once, unless one of them is in flight, in which case it waits, or
somebody's upload has ended since it asked, in which case it asks again.  It holds no claim while it waits, so builds
cannot wait for each other in a circle; builds that need different paths never wait.  Tested in transfer/test_claims.py.
"""

import threading
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, contextmanager

from hook.recent import Recent

PAUSE_S = 0.02
MOST_MACHINES = 4096
"""One that is forgotten while somebody uploads there may be sent a path twice, which is wasteful but not wrong."""

Ask = Callable[[AbstractSet[str]], AbstractSet[str]]
"""Which of the paths given to it are missing on the machine now."""


class _Machine:
    """Paths in flight to one machine, and how many uploads to it have ended."""

    def __init__(self) -> None:
        self.claims: list[AbstractSet[str]] = []
        self.ended = 0

    def in_flight(self, paths: AbstractSet[str]) -> bool:
        """Whether somebody is sending one of `paths`."""
        return not all(paths.isdisjoint(claim) for claim in self.claims)


class Uploads:
    """Claims by machine; thread-safe.  `shared` if builds of other conversations claim here, too."""

    def __init__(self, *, shared: bool) -> None:
        self.shared = shared
        self._lock = threading.Lock()
        self._machines: Recent[str, _Machine] = Recent(MOST_MACHINES)

    def ended(self, machine: str) -> int:
        """How many uploads to `machine` have ended: to be read before asking what is missing there."""
        with self._lock:
            return self._machine(machine).ended

    def end(self, machine: str) -> None:
        """An upload to `machine` has ended that nobody had claimed."""
        with self._lock:
            self._machine(machine).ended += 1

    @contextmanager
    def claimed(
        self,
        machine: str,
        missing: AbstractSet[str],
        ended: int,
        ask: Ask,
        waiting: AbstractContextManager[object],
        pause: Callable[[float], object],
    ) -> Iterator[AbstractSet[str]]:
        """Claim those of `missing` that are still missing when nobody else is sending any of them; yields them.

        `ended` is what the method of that name said before `missing` was found.  `pause` waits for as many seconds;
        `waiting` is entered meanwhile.
        """
        with self._lock:
            state = self._machine(machine)
        with waiting:
            while not self._claim(state, missing, ended):
                if state.in_flight(missing):
                    pause(PAUSE_S)
                else:
                    ended = self.ended(machine)
                    missing = ask(missing)
        try:
            yield missing
        finally:
            with self._lock:
                state.claims.remove(missing)
                state.ended += 1

    def _machine(self, name: str) -> _Machine:
        return self._machines.get(name) or self._machines.put(name, _Machine())

    def _claim(self, state: _Machine, paths: AbstractSet[str], ended: int) -> bool:
        with self._lock:
            if state.ended != ended or state.in_flight(paths):
                return False
            state.claims.append(paths)
            return True
