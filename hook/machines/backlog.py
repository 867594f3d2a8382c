"""How soon a build would run on machines whose slots are all busy.

Learnt from builds of the same name, without its version: how long each of them kept a slot of a machine.  A name that
was never seen there says nothing: its builds are not promised ahead of a slot to a Nix that could build them itself.
Nor is a slot expected soon in which one of them runs, or that somebody else has.  Memory is bounded.  Tested in
test_backlog.py.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from hook.machines.identity import SlotsOf
from hook.machines.slots import Slot
from hook.recent import Recent

SOON_S = 1.0
"""A build that Nix could do itself is promised ahead of a slot if it is expected to have one by then.

Of a build that takes so much longer than others of its name, nothing is expected any more.
"""

MOST_EACH = 16
"""How many builds may be promised ahead of each slot, however short they are expected to be: a name may mislead."""

WEIGHT = 0.3
"""Of the newest build in the mean."""

MOST_KEPT = 10_000
"""Names, and builds that were refused."""


@dataclass(frozen=True, slots=True)
class _Occupant:
    """A build of this name has had a slot of the machine since then."""

    machine: SlotsOf
    name: str
    since: float


class Backlog:
    """Builds that were promised and do not run yet, those that have slots, and how long others took; thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._promised: Counter[SlotsOf] = Counter()
        self._occupants: WeakKeyDictionary[Slot, _Occupant] = WeakKeyDictionary()
        self._seconds: Recent[tuple[SlotsOf, str], float] = Recent(MOST_KEPT)
        self._refused: Recent[Hashable, object] = Recent(MOST_KEPT)

    def enter(self, machines: Collection[SlotsOf]) -> None:
        """A build was promised that can run on any of these."""
        with self._lock:
            self._promised.update(machines)

    def leave(self, machines: Collection[SlotsOf]) -> None:
        """It runs, or will not."""
        with self._lock:
            self._promised.subtract(machines)
            for machine in machines:
                if not self._promised[machine]:
                    del self._promised[machine]

    def ran(self, machine: SlotsOf, drv_path: str, seconds: float) -> None:
        """A build had a slot of this machine for so long, and has built something."""
        key = machine, name_of(drv_path)
        with self._lock:
            before = self._seconds.get(key, seconds)
            self._seconds.put(key, before + (seconds - before) * WEIGHT)

    def occupied(self, slot: Slot, machine: SlotsOf, drv_path: str) -> None:
        """From now on this build has a slot of this machine, until that is released or another one has it."""
        with self._lock:
            self._occupants[slot] = _Occupant(machine, name_of(drv_path), self._clock())

    def starts_soon(self, machines: Collection[SlotsOf], drv_path: str) -> bool:
        """Whether a build is expected to have a slot of one of these machines soon, all of which are busy."""
        name = name_of(drv_path)
        with self._lock:
            promised = max((self._promised[machine] for machine in machines), default=0)
            known = {machine: self._seconds.get((machine, name)) for machine in set(machines)}
            soon_free = Counter(o.machine for slot, o in self._occupants.items() if slot.is_held and self._ends_soon(o))
            slots = {machine: soon_free[machine] for machine, each in known.items() if each is not None}
            builds_per_s = sum(slots[machine] / max(each, 1e-3) for machine, each in known.items() if each is not None)
        return promised < MOST_EACH * sum(slots.values()) and promised + 1 <= SOON_S * builds_per_s

    def _ends_soon(self, occupant: _Occupant) -> bool:
        expected = self._seconds.get((occupant.machine, occupant.name))
        return expected is not None and abs(occupant.since + expected - self._clock()) <= SOON_S

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
