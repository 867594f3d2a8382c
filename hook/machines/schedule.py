"""Pick a machine for one request.

Pure: the request, this host, and what was found out about each machine go in, a Decision comes out.  Nothing here
opens a file, takes a lock or knows what ssh is.  The caller asks `suitable` which machines are worth probing, probes
their slots under the main lock, and hands everything to `decide`.

Source: docs/protocols/machines.md, "Selection"; docs/protocols/build-hook.md, "What the stock hook does".  Each rule
is a row in test_schedule.py, which also compares every choice with a second implementation, and the refusal texts with
a stock hook.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from hook.front.request import Request
from hook.machines.builders import Machine
from hook.values.release import Release

FLOAT_LOAD: Release = (2, 20)
"""From here on loads are compared as single-precision numbers; before, the division drops the remainder."""

BRACKETED_LISTS: Release = (2, 12)
LEVEL_BY_JOBS: Release = (2, 14)
SORTED_SYSTEMS: Release = (2, 20)

LEVEL_WARN = 1
LEVEL_CHATTY = 5

HIGHLIGHT = "\x1b[35;1m"
NORMAL = "\x1b[0m"


class Answer(Enum):
    """What to tell Nix."""

    ACCEPT = "accept"
    DECLINE = "decline"
    DECLINE_PERMANENTLY = "decline-permanently"
    POSTPONE = "postpone"


@dataclass(frozen=True, slots=True)
class Host:
    """What the parent could build itself; `max_jobs` is its own setting, not a machine's."""

    system: str
    extra_platforms: frozenset[str]
    features: frozenset[str]
    max_jobs: int
    release: Release

    def could_build(self, request: Request) -> bool:
        """Whether the parent may build this at all, now or when it has a free slot."""
        return self.max_jobs > 0 and self._is_able(request)

    def can_build(self, request: Request) -> bool:
        """Whether the parent can start this build at once."""
        return request.am_willing and self.could_build(request)

    def message_level(self, request: Request) -> int:
        """How loudly to say that no machine was found."""
        if self.release >= LEVEL_BY_JOBS:
            quiet = self.could_build(request)
        else:
            quiet = request.am_willing and self._is_able(request)
        return LEVEL_CHATTY if quiet else LEVEL_WARN

    def _is_able(self, request: Request) -> bool:
        right_system = request.system == self.system or request.system in self.extra_platforms
        return right_system and request.features <= self.features


@dataclass(frozen=True, slots=True)
class Candidate:
    """A machine and what was found out about it.

    `load` is the number of its slots that are in use, None if they were not probed.  `failed` says why the machine
    cannot be used at present, `disabled` why it is not to be.
    """

    machine: Machine
    load: int | None = None
    slot_free: bool = False
    failed: str | None = None
    disabled: str | None = None

    @property
    def is_usable(self) -> bool:
        """Whether it may be given a build."""
        return self.failed is None and self.disabled is None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why one machine was chosen or not, in words for the user."""

    machine: Machine
    chosen: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, the machine if it is `accept`, and a verdict for every machine in the order of `builders`."""

    answer: Answer
    machine: Machine | None
    verdicts: tuple[Verdict, ...]


def suitable(request: Request, machine: Machine) -> str | None:
    """None if the machine is able to build the request when it has a slot; otherwise why not."""
    if request.system not in ("builtin", *machine.systems):
        if not machine.systems:
            return "is for no system, only for builtin builders"
        return f"is for {_listing(machine.systems)} only, not {request.system}"
    if lacking := request.features - machine.supported - machine.mandatory:
        return f"lacks {_features(lacking)}"
    if unwanted := machine.mandatory - request.features:
        return f"takes only builds that require {_features(unwanted)}"
    return None


def decide(request: Request, host: Host, candidates: Sequence[Candidate]) -> Decision:
    """Choose as stock does: the least loaded able machine with a free slot, else an answer that lets Nix go on."""
    if not candidates:
        return Decision(Answer.DECLINE_PERMANENTLY, None, ())
    able = [c for c in candidates if c.is_usable and suitable(request, c.machine) is None]
    rate = _rate(able, host.release)
    # `min` keeps the first of equals, as stock does.
    best = min(
        (c for c in able if c.slot_free),
        key=lambda c: (rate(c), -c.machine.speed_factor, c.load or 0),
        default=None,
    )
    if best is not None:
        answer = Answer.ACCEPT
    elif able and not host.can_build(request):
        answer = Answer.POSTPONE
    else:
        answer = Answer.DECLINE
    verdicts = tuple(Verdict(c.machine, c is best, _reason(request, c, best, rate)) for c in candidates)
    return Decision(answer, best.machine if best else None, verdicts)


def no_machine_message(request: Request, host: Host, machines: Sequence[Machine]) -> tuple[int, str]:
    """The level and text with which stock explains that it found no machine."""

    def row(*values: object) -> str:
        shown = [_highlight(value) for value in values]
        if host.release >= BRACKETED_LISTS:
            shown = [
                f"[{text}]" if isinstance(value, list) else text for value, text in zip(values, shown, strict=True)
            ]
        return f"({', '.join(shown)})"

    lines = [
        "Failed to find a machine for remote build!",
        f"derivation: {_highlight(request.drv_path.rpartition('/')[2])}",
        f"required (system, features): {row(request.system, sorted(request.features))}",
        f"{_highlight(len(machines))} available machines:",
        "(systems, maxjobs, supportedFeatures, mandatoryFeatures)",
    ]
    for machine in machines:
        systems = sorted(set(machine.systems)) if host.release >= SORTED_SYSTEMS else list(machine.systems)
        lines.append(row(systems, machine.max_jobs, sorted(machine.supported), sorted(machine.mandatory)))
    return host.message_level(request), "\n".join(lines)


def _rate(able: Iterable[Candidate], release: Release) -> Callable[[Candidate], float]:
    """How the load of a machine is set against its speed factor.

    Releases that divide whole numbers accept no fractions; where `builders` has one all the same, nothing is dropped.
    """
    if release < FLOAT_LOAD and all(c.machine.speed_factor.is_integer() for c in able):
        return lambda c: (c.load or 0) // int(c.machine.speed_factor)
    return lambda c: _single((c.load or 0) / c.machine.speed_factor)


def _single(value: float) -> float:
    """`value` rounded to single precision."""
    try:
        (rounded,) = struct.unpack("f", struct.pack("f", value))
    except OverflowError:
        return float("inf")
    return float(rounded)


def _reason(request: Request, candidate: Candidate, best: Candidate | None, rate: Callable[[Candidate], float]) -> str:
    machine = candidate.machine
    if candidate.disabled is not None:
        return candidate.disabled
    if candidate.failed is not None:
        return f"failed: {candidate.failed}"
    if why := suitable(request, machine):
        return why
    if machine.max_jobs == 0:
        return "has no slots (max jobs is 0)"
    if best is None or not candidate.slot_free:
        return "its only slot is busy" if machine.max_jobs == 1 else f"all {machine.max_jobs} slots are busy"
    if candidate is best:
        return f"chosen: load {_load(candidate)}, {candidate.load or 0} of {machine.max_jobs} slots busy"
    other = f"that of '{best.machine.text.split()[0]}'"
    if rate(candidate) > rate(best):
        return f"load {_load(candidate)} is higher than {other}, {_load(best)}"
    if machine.speed_factor < best.machine.speed_factor:
        return f"speed factor {machine.speed_factor:g} is lower than {other}, {best.machine.speed_factor:g}"
    if (candidate.load or 0) > (best.load or 0):
        return f"{candidate.load} busy slots are more than {other}, {best.load}"
    return f"load and speed equal {other}, which comes first"


def _load(candidate: Candidate) -> str:
    return f"{candidate.load or 0}/{candidate.machine.speed_factor:g}"


def _listing(names: Iterable[str]) -> str:
    return ", ".join(names)


def _features(names: Iterable[str]) -> str:
    quoted = [f"'{name}'" for name in sorted(names)]
    return ("feature " if len(quoted) == 1 else "features ") + _listing(quoted)


def _highlight(value: object) -> str:
    text = _listing(value) if isinstance(value, list) else str(value)
    return f"{HIGHLIGHT}{text}{NORMAL}"
