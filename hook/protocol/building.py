"""What both protocols say about a build: a derivation without its inputs' derivations and limits there, a result back.

Sources: worker protocol, "BasicDerivation" and "BuildResult"; the serve protocol uses the same layouts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from hook.protocol.wire import Reader, Writer
from hook.store.derivation import Derivation


class BuildStatus(IntEnum):
    """How a build ended, as numbered on the wire."""

    BUILT = 0
    SUBSTITUTED = 1
    ALREADY_VALID = 2
    PERMANENT_FAILURE = 3
    INPUT_REJECTED = 4
    OUTPUT_REJECTED = 5
    TRANSIENT_FAILURE = 6
    CACHED_FAILURE = 7
    TIMED_OUT = 8
    MISC_FAILURE = 9
    DEPENDENCY_FAILED = 10
    LOG_LIMIT_EXCEEDED = 11
    NOT_DETERMINISTIC = 12
    RESOLVES_TO_ALREADY_VALID = 13
    NO_SUBSTITUTERS = 14


SUCCESSES = frozenset(
    {
        BuildStatus.BUILT,
        BuildStatus.SUBSTITUTED,
        BuildStatus.ALREADY_VALID,
        BuildStatus.RESOLVES_TO_ALREADY_VALID,
    }
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user allows a build; 0 stands for no limit."""

    max_silent_time_s: int = 0
    timeout_s: int = 0
    max_log_bytes: int = 0
    keep_failed: bool = False


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The daemon's answer to a build."""

    status: int
    message: str

    @property
    def ok(self) -> bool:
        """Whether the outputs are there."""
        return self.status in SUCCESSES


def write_basic_derivation(w: Writer, derivation: Derivation, inputs: Iterable[str]) -> None:
    """A derivation without its input derivations: `inputs` must hold everything it needs."""
    w.u64(len(derivation.outputs))
    for name, output in derivation.outputs:
        w.string(name)
        w.string(output.path)
        w.string(output.hash_algo)
        w.string(output.hash)
    w.strings(sorted(inputs))
    w.string(derivation.system)
    w.string(derivation.builder)
    w.strings(derivation.args)
    w.u64(len(derivation.env))
    for variable, value in derivation.env:
        w.string(variable)
        w.string(value)


def skip_built_outputs(r: Reader) -> None:
    """Read and drop the realisations of a result: outputs built here have paths that are known beforehand."""
    for _ in range(r.count()):
        r.string()  # output id
        r.string()  # realisation as JSON
