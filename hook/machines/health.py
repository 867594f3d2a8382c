"""What is remembered of each machine between builds: when it last worked, and when it may be tried again.

A machine that fails is left alone for a growing, jittered pause; after it, one session at a time may try again, and the
others go on without the machine until that try has ended, or for a minute.  Any success ends the pause, a command's
too.  Told the time by its caller; tested in test_health.py.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from hook.machines.identity import HealthOf
from hook.recent import Recent

FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 300.0

LONGEST_TRY_S = 60.0
"""How long others go on without a machine that is being tried: connecting takes half of that at most, but the command
that tries may be stopped."""

MOST_RECORDS = 4096
"""A machine may be another one for each caller, and callers come and go."""

FRESH_S = 60.0
"""How long a machine that worked is taken to be working, by whoever could not do without it."""

PROVEN_S = 1.0
"""How long by whoever could."""

REFUSED_S = 60.0
"""How long a machine that does not say whom it trusts is taken to refuse again what it has refused."""

UNTRUSTED = "it does not trust the user that logs in there"


@dataclass(slots=True)
class _Record:
    worked_at: float | None = None
    reason: str = ""
    failures: int = 0
    """Since it last worked."""
    setbacks: int = 0
    """The same for those who wait: what builds find out is not undone by a connection."""
    by_build: bool = False
    """Whether a build has found out last."""
    retry_at: float = 0.0
    tried_at: float | None = None
    """When somebody began to try it again who has not found out yet."""


class Health:
    """Records by machine; thread-safe."""

    def __init__(self, clock: Callable[[], float], jitter: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._jitter = jitter or _random
        self._lock = threading.Lock()
        self._records: Recent[HealthOf, _Record] = Recent(MOST_RECORDS)
        self._heard: Recent[HealthOf, float] = Recent(MOST_RECORDS)
        self._distrust: Recent[HealthOf, tuple[str, float]] = Recent(MOST_RECORDS)
        self._told: Recent[HealthOf, float] = Recent(MOST_RECORDS)
        """When the connection was begun over which the machine has said last whether it trusts us."""

    def obstacle(self, machine: HealthOf) -> str | None:
        """Why `machine` must not be tried now, or None."""
        with self._lock:
            record = self._records.get(machine)
            if record is None or not record.failures:
                return None
            now = self._clock()
            if now < record.retry_at:
                return f"{record.reason} (next try in {record.retry_at - now:.0f} s)"
            if record.tried_at is not None and now - record.tried_at < LONGEST_TRY_S:
                return f"{record.reason} (being tried again)"
            return None

    def is_fresh(self, machine: HealthOf) -> bool:
        """Whether `machine` worked so recently that it is taken to work now."""
        with self._lock:
            record = self._records.get(machine)
            return (
                record is not None
                and not record.failures
                and record.worked_at is not None
                and self._clock() - record.worked_at < FRESH_S
            )

    def answered_s_ago(self, machine: HealthOf) -> float | None:
        """How long ago `machine` last showed that it works; None if that is in doubt."""
        with self._lock:
            record = self._records.get(machine)
            if record is None or record.failures or record.worked_at is None:
                return None
            return self._clock() - record.worked_at

    def is_proven(self, machine: HealthOf) -> bool:
        """Whether something came from `machine` within the last moment."""
        with self._lock:
            heard_at, record = self._heard.get(machine), self._records.get(machine)
            if record is not None and record.failures:
                return False
            worked_at = record.worked_at if record else None
            times = [at for at in (heard_at, worked_at) if at is not None]
            return bool(times) and self._clock() - max(times) < PROVEN_S

    def ear(self, machine: HealthOf) -> Callable[[], None]:
        """To be called whenever something comes from `machine`, over any connection."""

        def hear() -> None:
            with self._lock:
                self._heard.put(machine, self._clock())

        return hear

    def distrust(self, machine: HealthOf) -> str | None:
        """Why `machine` may take nobody's word for what it is sent; None if it trusts us, for all that is known."""
        with self._lock:
            reason, until = self._distrust.get(machine, ("", 0.0))
            return reason if self._clock() < until else None

    def trusts(self, machine: HealthOf, *, trusted: bool | None, begun_at: float) -> None:
        """It says whether it trusts us over a connection that was begun then; None if it says nothing.

        What it says to a connection is true for as long as that lasts.  So the one begun last is believed.
        """
        with self._lock:
            if trusted is None or begun_at <= self._told.get(machine, float("-inf")):
                return
            self._told.put(machine, begun_at)
            if trusted:
                self._distrust.pop(machine, None)
            else:
                self._distrust.put(machine, (UNTRUSTED, float("inf")))

    def refused(self, machine: HealthOf, reason: str) -> None:
        """It refused what it would have taken from somebody it trusts."""
        if self.distrust(machine) != UNTRUSTED:
            with self._lock:
                self._distrust.put(machine, (reason, self._clock() + REFUSED_S))

    def trying(self, machine: HealthOf) -> bool:
        """A session is about to use it; True if it had failed: then that session alone may, until the try has ended."""
        with self._lock:
            record = self._records.get(machine)
            if record is None or not record.failures:
                return False
            record.tried_at = self._clock()
            return True

    def failures(self, machine: HealthOf) -> int:
        """How often tries of `machine` have failed in a row, for those who wait for it.

        What a build has found out is not over when a connection can be made, but when something was built.
        """
        with self._lock:
            record = self._records.get(machine)
            return record.setbacks if record else 0

    def worked(self, machine: HealthOf) -> None:
        """The machine answered."""
        with self._lock:
            before = self._records.get(machine)
            left = before.setbacks if before and before.by_build else 0
            self._records.put(machine, _Record(worked_at=self._clock(), setbacks=left, by_build=left > 0))

    def built(self, machine: HealthOf) -> None:
        """A build there was a success."""
        with self._lock:
            record = self._records.get(machine)
            if record is not None and record.by_build:
                record.setbacks, record.by_build = 0, False

    def forgive(self, address: str) -> None:
        """Somebody has seen that the machines at `address` work: no pause is left of them."""
        with self._lock:
            for machine in self._records:
                if machine.uri == address:
                    self._records[machine] = _Record()

    def abandoned(self, machine: HealthOf) -> None:
        """A try ended without telling anything: its session was given up."""
        with self._lock:
            record = self._records.get(machine)
            if record is not None:
                record.tried_at = None

    def doubt(self, machine: HealthOf) -> None:
        """A connection broke: the machine may still work, but not without being asked."""
        with self._lock:
            self._heard.pop(machine, None)
            record = self._records.get(machine)
            if record is not None:
                record.worked_at = None

    def failed(
        self, machine: HealthOf, reason: str, first_pause_s: float = FIRST_PAUSE_S, *, by_build: bool = False
    ) -> None:
        """The machine cannot be used: leave it alone, for longer each time.

        With `by_build` that is not for a connection to find out.
        """
        with self._lock:
            self._heard.pop(machine, None)
            record = self._records.put(machine, self._records.get(machine) or _Record())
            if self._clock() < record.retry_at:
                return  # one of many tries that met the same trouble
            record.failures += 1
            record.setbacks += 1
            record.by_build = by_build
            record.reason = reason
            record.tried_at = None
            pause_s = min(first_pause_s * 2 ** (record.failures - 1), LONGEST_PAUSE_S)
            record.retry_at = self._clock() + pause_s * (0.75 + self._jitter() / 2)


def _random() -> float:
    """A number from 0 to 1."""
    # Loaded on first use: machines rarely fail before Nix has its answer.
    import random

    return random.random()
