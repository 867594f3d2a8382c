"""What both protocols say about a build: a derivation without its inputs' derivations and limits there, a result back.

The serve protocol uses the same layouts as the worker protocol.

Source: docs/protocols/worker-protocol.md, "BasicDerivation", "BuildResult".  Tested in test_recordings.py.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from hook.protocol.wire import Reader, Writer
from hook.values.derivation import Derivation
from hook.values.limits import Limits


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


NO_LIMITS = Limits()

MAX_OUTPUTS = 1 << 12
MAX_REALISATION_BYTES = 1 << 20
"""Longest realisation accepted: one that depends on thousands of others."""


class BuiltPath(NamedTuple):
    """The path of an output, and signatures of its being one of the derivation at a path: the form from Nix 2.35 on."""

    path: str
    signatures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The daemon's answer to a build; `realisations` maps outputs to paths, or to JSON (hook.values.realisation)."""

    status: int
    message: str
    realisations: Mapping[str, bytes | BuiltPath] = field(default_factory=dict)

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


def read_built_outputs(r: Reader, names: Collection[str], *, as_paths: bool) -> dict[str, bytes | BuiltPath]:
    """The realisations of those outputs of a result that are called `names`; the others are read and dropped.

    As JSON only the name is taken from an output id: daemons of Nix 2.35 and later fill its hash with zeros.
    """
    realisations: dict[str, bytes | BuiltPath] = {}
    for _ in range(r.count(MAX_OUTPUTS)):
        if as_paths:
            name, built = r.text(), BuiltPath(r.text(), tuple(sorted(r.words())))
            if name in names:
                realisations[name] = built
            continue
        name = r.text().rpartition("!")[2]
        json = r.string(MAX_REALISATION_BYTES)
        if name in names:
            realisations[name] = json
    return realisations
