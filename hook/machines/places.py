"""Places: a machine that was given to a build, with one of its slots or ahead of one.

A build needs a slot to run, not to bring its inputs there.  So a build that waits for a slot may have a place ahead of
it, and a build whose inputs still travel lends its slot: another one that has its inputs there already runs in it, and
the lender waits for the next.  A slot changes hands without being unlocked, so other hooks on this host see a machine's
max jobs kept at every moment.  Tested in test_places.py.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable

from hook.machines.builders import Machine
from hook.machines.identity import SlotsOf
from hook.machines.slots import Slot


class LookAhead:
    """Of each machine: how many builds have a place there and do not run yet, and which slots are lent; thread-safe.

    `changed` is called whenever somebody who waits may find something to take.
    """

    def __init__(self, changed: Callable[[], object]) -> None:
        self.changed = changed
        self._lock = threading.Lock()
        self._builds: Counter[SlotsOf] = Counter()
        self._lent: defaultdict[SlotsOf, list[Slot]] = defaultdict(list)

    def count(self, at: SlotsOf) -> int:
        """How many builds have a place at this machine and do not run yet."""
        with self._lock:
            return self._builds[at]

    def lent(self, at: SlotsOf) -> int:
        """How many slots of this machine are lent and free to be taken."""
        with self._lock:
            return len(self._lent.get(at, ()))

    def enter(self, at: SlotsOf) -> None:
        """One more."""
        with self._lock:
            self._builds[at] += 1

    def leave(self, at: SlotsOf) -> None:
        """One less."""
        with self._lock:
            self._builds[at] -= 1
            if not self._builds[at]:
                del self._builds[at]
        self.changed()

    def lend(self, at: SlotsOf, slot: Slot) -> None:
        """Let somebody else have `slot`."""
        with self._lock:
            self._lent[at].append(slot)
        self.changed()

    def borrow(self, at: SlotsOf) -> Slot | None:
        """A slot that is lent, now the caller's; None if there is none."""
        with self._lock:
            return self._take(at, -1) if at in self._lent else None

    def take_back(self, at: SlotsOf, slot: Slot) -> bool:
        """Lend `slot` no longer; False if somebody has taken it."""
        with self._lock:
            if slot not in self._lent.get(at, ()):
                return False
            self._take(at, self._lent[at].index(slot))
            return True

    def _take(self, at: SlotsOf, index: int) -> Slot:
        slots = self._lent[at]
        slot = slots.pop(index)
        if not slots:
            del self._lent[at]
        return slot


class Place:
    """A machine for one build, used by one thread; `release` gives it up.

    `at` stands for the machine's slots.  `left` is called once, at the end.
    """

    def __init__(
        self,
        machine: Machine,
        name: str,
        at: SlotsOf,
        slot: Slot | None,
        look_ahead: LookAhead,
        left: Callable[["Place"], object],
    ) -> None:
        self.machine = machine
        self.name = name
        self.at = at
        self._slot = slot
        self._look_ahead = look_ahead
        self._left = left
        self._lends = False
        self._is_ahead = True
        self._is_over = False
        look_ahead.enter(at)

    @property
    def slot(self) -> Slot | None:
        """The slot that it has, lent or not; None while it is ahead of one."""
        return self._slot

    @property
    def is_over(self) -> bool:
        """Whether it was given up."""
        return self._is_over

    def lend(self) -> None:
        """The build has something to do first for which it needs no slot."""
        if self._slot is not None and not self._lends:
            self._lends = True
            self._look_ahead.lend(self.at, self._slot)

    def start(self, slot: Slot | None = None) -> bool:
        """The build is to run now, in its slot or in `slot`, now its own; False if it has none, or no longer."""
        self._take_back()
        if self._slot is None:
            self._slot = slot
        elif slot is not None:
            # While its machine was disabled it did not take back what it had lent.
            slot.release()
            self._look_ahead.changed()
        if self._slot is None:
            return False
        self._be_ahead_no_more()
        return True

    def release(self) -> None:
        """Give the place up; harmless when done before."""
        if self._is_over:
            return
        self._is_over = True
        self._take_back()
        self._be_ahead_no_more()
        self._left(self)
        if self._slot is not None:
            self._slot.release()
            self._look_ahead.changed()

    def _take_back(self) -> None:
        if self._lends and self._slot is not None and not self._look_ahead.take_back(self.at, self._slot):
            self._slot = None
        self._lends = False

    def _be_ahead_no_more(self) -> None:
        if self._is_ahead:
            self._is_ahead = False
            self._look_ahead.leave(self.at)
