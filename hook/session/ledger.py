"""What can be told of builds: those that are under way, how others ended, and why each went where it went.

A Conversation tells the ledger what becomes of the builds of one hook.  What is under way and the totals are in memory,
and end with the process; builds that are over and decisions also go to two files (record.py), not before somebody calls
`flush`: no build waits for a disk.  Told the time by its caller; tested in test_ledger.py.
"""

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from enum import Enum

from hook.errors import shortened
from hook.machines.identity import MachineInUse
from hook.recent import Recent
from hook.transfer.meter import Meter

UNWRITTEN = 20_000
UNWRITTEN_CHARACTERS = 8 << 20
"""How many entries, and of what size altogether, may wait for `flush`; after that the oldest are lost.

The files would not hold more.
"""

MOST_STORES = 64
MOST_TOTALS = 4096
"""Machines may be named on a command line, another one each time."""


class Phase(Enum):
    """What a build that Nix gives away is at."""

    CONNECTING = "connecting"
    WAITING = "waiting for a slot"
    SENDING = "sending inputs"
    BUILDING = "building"
    FETCHING = "fetching outputs"
    REGISTERING = "registering"
    """All have arrived; they are made valid together."""


COMING = (Phase.FETCHING, Phase.REGISTERING)
"""When bytes come from the machine; before, they go there."""


class Outcome(Enum):
    """How a build that Nix was promised ended."""

    BUILT = "built"
    FAILED = "failed"
    ERROR = "error"
    """Not by the fault of the derivation: no machine was left, or something is wrong here."""
    CANCELLED = "cancelled"
    """Nix gave it up."""
    MOVED = "moved"
    """For this machine only: it was lost, and the build went on elsewhere."""


@dataclass(slots=True, eq=False)
class Build:
    """One build; times are seconds since 1970.  Changed by its own conversation only."""

    drv_path: str
    machine: str
    since: float
    phase: Phase
    phase_since: float
    able: Sequence[str] = ()
    """Machines that may have it."""
    seconds: defaultdict[Phase, float] = field(default_factory=lambda: defaultdict(float))
    """How long it was in each phase before the present one."""
    sent_bytes: int = 0
    received_bytes: int = 0
    moved_from: list[str] = field(default_factory=list)
    """Machines that it has lost."""


@dataclass(slots=True)
class Total:
    """What a machine has done since this process began."""

    builds: Counter[Outcome] = field(default_factory=Counter)
    seconds: defaultdict[Phase, float] = field(default_factory=lambda: defaultdict(float))
    sent_bytes: int = 0
    received_bytes: int = 0


class _Unwritten:
    """Entries that wait to be written; of too many, the last ones."""

    def __init__(self) -> None:
        self._entries: deque[tuple[Mapping[str, object], int]] = deque()
        self._characters = 0

    def add(self, entry: Mapping[str, object], characters: int) -> None:
        """One more, whose texts have so many characters."""
        self._entries.append((entry, characters))
        self._characters += characters
        while len(self._entries) > UNWRITTEN or self._characters > UNWRITTEN_CHARACTERS:
            self._characters -= self._entries.popleft()[1]

    def take(self) -> list[Mapping[str, object]]:
        """All of them; none are left."""
        entries = [entry for entry, _ in self._entries]
        self._entries.clear()
        self._characters = 0
        return entries


class Ledger:
    """Builds, decisions and machines; thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.since = clock()
        self._current: dict[int, Conversation] = {}
        self._machines: Recent[str, Sequence[MachineInUse]] = Recent(MOST_STORES)
        self._over = _Unwritten()
        self._decisions = _Unwritten()
        self._answers: Counter[str] = Counter()
        self._totals: Recent[str, Total] = Recent(MOST_TOTALS)

    def conversation(self, meter: Meter) -> "Conversation":
        """Somebody who asks for builds; `meter` says how much they have copied, either way."""
        return Conversation(self, self._clock, meter)

    def meet(self, private_dir: str, machines: Sequence[MachineInUse]) -> None:
        """These are the machines of whoever builds now for the store with this private directory."""
        with self._lock:
            self._machines.put(private_dir, machines)

    def machines(self) -> list[MachineInUse]:
        """Machines of the last conversation about each store."""
        with self._lock:
            return [machine for machines in self._machines.values() for machine in machines]

    def answers(self) -> dict[str, int]:
        """How often each answer was given."""
        with self._lock:
            return dict(self._answers)

    def standing(self) -> tuple[list[Build], dict[str, Total]]:
        """Builds that are going on, the oldest first, and by machine what became of those that are over.

        Both at one moment: each build is counted in exactly one of them.
        """
        with self._lock:
            builds = [conversation.snapshot() for conversation in self._current.values()]
            totals = deepcopy(dict(self._totals))
        return sorted((build for build in builds if build is not None), key=lambda build: build.since), totals

    def flush(self, directory: str) -> None:
        """Write what is to be kept to files in `directory`."""
        # Loaded on first use: choosing a machine needs no file.
        from hook.session.record import BUILDS, DECISIONS

        for record, unwritten in ((BUILDS, self._over), (DECISIONS, self._decisions)):
            with self._lock:
                entries = unwritten.take()
            record.append(directory, entries)

    def began(self, conversation: "Conversation") -> None:
        """`conversation` has a build now."""
        with self._lock:
            self._current[id(conversation)] = conversation

    def dropped(self, conversation: "Conversation") -> None:
        """It has none any more."""
        with self._lock:
            self._current.pop(id(conversation), None)

    def decided(self, answer: str, decision: Mapping[str, object], characters: int) -> None:
        """One more question was answered; the texts of `decision` have so many characters."""
        with self._lock:
            self._answers[answer] += 1
            self._decisions.add(decision, characters)

    def answered(self, answer: str) -> None:
        """One more was answered as before."""
        with self._lock:
            self._answers[answer] += 1

    def ended(self, conversation: "Conversation", build: Build, outcome: Outcome, detail: str) -> None:
        """One more build is over."""
        detail = shortened(detail)
        with self._lock:
            self._current.pop(id(conversation), None)
            for machine in build.moved_from:
                self._total(machine).builds[Outcome.MOVED] += 1
            total = self._total(build.machine)
            total.builds[outcome] += 1
            for phase, seconds in build.seconds.items():
                total.seconds[phase] += seconds
            total.sent_bytes += build.sent_bytes
            total.received_bytes += build.received_bytes
            over = {
                "derivation": build.drv_path,
                "machine": build.machine,
                "outcome": outcome.value,
                "detail": detail,
                "began": round(build.since, 3),
                "ended": round(build.phase_since, 3),
                "seconds": {phase.value: round(seconds, 4) for phase, seconds in build.seconds.items()},
                "sent_bytes": build.sent_bytes,
                "received_bytes": build.received_bytes,
                "moved_from": build.moved_from,
            }
            self._over.add(over, len(build.drv_path) + len(detail) + sum(map(len, (build.machine, *build.moved_from))))

    def _total(self, machine: str) -> Total:
        return self._totals.get(machine) or self._totals.put(machine, Total())


class Conversation:
    """What one hook asks for, told as it happens, by one thread; `close` when it is over."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float], meter: Meter) -> None:
        self._ledger = ledger
        self._clock = clock
        self._meter = meter
        self._build: Build | None = None
        self._promised = False
        self._counted_bytes = 0

    def decided(self, drv_path: str, answer: str, verdicts: Sequence[tuple[str, str]]) -> None:
        """Nix asked for a build; it is answered so, for these reasons, one a machine."""
        machines = [{"machine": machine, "reason": reason} for machine, reason in verdicts]
        decision = {"at": round(self._clock(), 3), "derivation": drv_path, "answer": answer, "machines": machines}
        self._ledger.decided(answer, decision, len(drv_path) + sum(len(name) + len(why) for name, why in verdicts))

    def answered_again(self, answer: str) -> None:
        """Nix asked again, and is answered as before, for the same reasons."""
        self._ledger.answered(answer)

    def begin(self, drv_path: str, machine: str) -> None:
        """A build that may be promised to Nix; `machine` is the likely one."""
        now = self._clock()
        self._build = Build(drv_path, machine, now, Phase.CONNECTING, now)
        self._counted_bytes = self._meter.copied_bytes
        self._ledger.began(self)

    def drop(self) -> None:
        """It was not promised, and so is nothing to remember."""
        self._build = None
        self._promised = False
        self._ledger.dropped(self)

    def promise(self, able: Sequence[str] = ()) -> None:
        """It was promised, and any of the machines that are `able` may have it: its end will be remembered."""
        self._promised = True
        if self._build is not None:
            self._build.able = able

    def enter(self, phase: Phase, machine: str | None = None) -> None:
        """The build has come to `phase`, on `machine` from now on."""
        if self._build is not None:
            self._settle(self._build)
            self._build.phase = phase
            self._build.machine = machine or self._build.machine

    def lose(self, machine: str) -> None:
        """`machine` was lost; the build may go on elsewhere."""
        if self._build is not None:
            self._build.moved_from.append(machine)

    def end(self, outcome: Outcome, detail: str = "") -> None:
        """The build is over."""
        build = self._build
        if build is not None and self._promised:
            self._settle(build)
            self._ledger.ended(self, build, outcome, detail)
        self.drop()

    def close(self) -> None:
        """Whatever was promised and has no end was given up by Nix."""
        self.end(Outcome.CANCELLED)

    def snapshot(self) -> Build | None:
        """The build as it is now, for another thread."""
        build = self._build
        if build is None:
            return None
        sent, received = build.sent_bytes, build.received_bytes
        more = max(self._meter.copied_bytes - self._counted_bytes, 0)
        sent, received = (sent, received + more) if build.phase in COMING else (sent + more, received)
        return Build(
            build.drv_path,
            build.machine,
            build.since,
            build.phase,
            build.phase_since,
            build.able,
            sent_bytes=sent,
            received_bytes=received,
        )

    def _settle(self, build: Build) -> None:
        """Account for the time and the bytes of the phase that ends now."""
        now, copied = self._clock(), self._meter.copied_bytes
        build.seconds[build.phase] += now - build.phase_since
        if build.phase in COMING:
            build.received_bytes += copied - self._counted_bytes
        else:
            build.sent_bytes += copied - self._counted_bytes
        build.phase_since, self._counted_bytes = now, copied
