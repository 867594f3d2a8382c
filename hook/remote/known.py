"""Which paths are known to be valid on a machine, so that nobody asks again.

Known is what was uploaded to it, built there, or said by it to be valid, for as long as the connections last that were
begun at about the same time, and at most for twice RENEW_S.  The machine's collector spares only what belongs to an
open connection: when one ends, nothing is known any more.  It may be wrong all the same.  So a build that fails for
want of an input is tried once more, see session/build.py.  Memory is bounded; tested in test_known.py and test_pool.py.
"""

import threading
import time
from collections.abc import Callable, Iterable
from itertools import islice

RENEW_S = 300.0
MOST_PATHS = 20_000
"""How many paths are kept of one generation; there are two."""


class KnownPaths:
    """What is known of one machine; thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.begun_at = self._since = clock()
        self._young: set[str] = set()
        self._old: set[str] = set()

    def unknown(self, paths: Iterable[str]) -> list[str]:
        """Those of `paths` that nothing is known of."""
        with self._lock:
            self._age()
            return [path for path in paths if path not in self._young and path not in self._old]

    def add(self, paths: Iterable[str]) -> None:
        """All of `paths` are valid there now; of very many, the last are kept."""
        left = iter(paths)
        with self._lock:
            self._age()
            while some := tuple(islice(left, MOST_PATHS - len(self._young))):
                self._young.update(some)
                self._age()

    def forget(self) -> None:
        """Nothing is certain any more."""
        with self._lock:
            self._young, self._old = set(), set()

    def _age(self) -> None:
        """Drop the old generation, and have the young one grow old, when it is time or they are many."""
        late = self._clock() - self._since
        if late < RENEW_S and len(self._young) < MOST_PATHS:
            return
        self._old = self._young if late < 2 * RENEW_S else set()
        self._young = set()
        self._since = self._clock()
