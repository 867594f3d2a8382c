"""How soon a build would run on machines whose slots are all busy.

Learnt from builds of the same name, without its version: how long each of them kept a slot of a machine.  A name that
was never seen there says nothing: its builds are not promised ahead of a slot to a Nix that could build them itself.
Memory is bounded.  Tested in test_backlog.py.
"""

import threading
from collections import Counter
from collections.abc import Collection, Hashable, Mapping

from hook.recent import Recent

SOON_S = 1.0
"""A build that Nix could do itself is promised ahead of a slot if it is expected to have one by then."""

MOST_EACH = 16
"""How many builds may be promised ahead of each slot, however short they are expected to be: a name may mislead."""

WEIGHT = 0.3
"""Of the newest build in the mean."""

MOST_KEPT = 10_000
"""Names, and builds that were refused."""


class Backlog:
    """Builds that were promised and do not run yet, and how long others took, by machine; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._promised: Counter[Hashable] = Counter()
        self._seconds: Recent[tuple[Hashable, str], float] = Recent(MOST_KEPT)
        self._refused: Recent[Hashable, object] = Recent(MOST_KEPT)

    def enter(self, machines: Collection[Hashable]) -> None:
        """A build was promised that can run on any of these."""
        with self._lock:
            self._promised.update(machines)

    def leave(self, machines: Collection[Hashable]) -> None:
        """It runs, or will not."""
        with self._lock:
            self._promised.subtract(machines)
            for machine in machines:
                if not self._promised[machine]:
                    del self._promised[machine]

    def ran(self, machine: Hashable, drv_path: str, seconds: float) -> None:
        """A build had a slot of this machine for so long."""
        key = machine, name_of(drv_path)
        with self._lock:
            before = self._seconds.get(key, seconds)
            self._seconds.put(key, before + (seconds - before) * WEIGHT)

    def starts_soon(self, slots: Mapping[Hashable, int], drv_path: str) -> bool:
        """Whether a build is expected to have one of these slots soon, all of which are busy; by machine."""
        name = name_of(drv_path)
        with self._lock:
            promised = max((self._promised[machine] for machine in slots), default=0)
            known = {machine: self._seconds.get((machine, name)) for machine in slots}
            builds_per_s = sum(slots[machine] / max(each, 1e-3) for machine, each in known.items() if each is not None)
            room = MOST_EACH * sum(slots[machine] for machine, each in known.items() if each is not None)
        return promised < room and promised + 1 <= SOON_S * builds_per_s

    def is_news(self, build: Hashable, reasons: object) -> bool:
        """Whether `build` was not refused for the same reasons before: it is asked about at the end of every other."""
        with self._lock:
            before = self._refused.get(build)
            self._refused.put(build, reasons)
        return before != reasons


def name_of(drv_path: str) -> str:
    """What builds of one kind have in common: as Nix, the name up to a dash that no letter follows."""
    name = drv_path.rpartition("/")[2].partition("-")[2].removesuffix(".drv")
    dash = name.find("-")
    while dash >= 0 and name[dash + 1 : dash + 2].isalpha():
        dash = name.find("-", dash + 1)
    return name if dash < 0 else name[:dash]
