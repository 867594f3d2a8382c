"""Which faults strike at which steps, and what is promised then.

Pure.  What each fault does is in strikes.py, by its name.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

STEPS = (
    *("connect", "handshake", "query", "upload start", "upload middle", "upload end", "build", "log burst"),
    *("download start", "download middle", "download end", "register"),
)
SCHEMES = ("ssh-ng", "ssh")
MODES = ("broker", "standalone")

BUILT = "built"
"""The build succeeds, on this machine or on another."""

GIVEN_UP = "given up"
"""Nix is told that the build failed, or finds out; nothing of it is left."""


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong; `ends_attempt` if the build cannot go on where it is."""

    name: str
    outcome: str
    ends_attempt: bool = True
    not_at: tuple[str, ...] = ()
    modes: tuple[str, ...] = MODES

    def promise(self, step: str) -> str:
        """What must become of the build."""
        return self.outcome


FAULTS = (
    Fault("hook killed", GIVEN_UP),
    Fault("broker killed", GIVEN_UP, modes=("broker",)),
    Fault("ssh killed", BUILT),
    Fault("sshd killed", BUILT),
    Fault("remote Nix killed", BUILT, not_at=("connect",)),
)


@dataclass(frozen=True)
class Cell:
    """One run: a fault at a step, in one of the ways a build can go."""

    fault: Fault
    step: str
    scheme: str
    mode: str
    suite: str

    def __str__(self) -> str:
        return f"{self.fault.name} at {self.step}, {self.scheme}, {self.mode}, {self.suite}".replace(" ", "-")


def all_cells(suites: tuple[str, ...]) -> Iterator[Cell]:
    """Every fault at every step, in every way."""
    for suite, scheme, mode, fault, step in product(suites, SCHEMES, MODES, FAULTS, STEPS):
        if step not in fault.not_at and mode in fault.modes:
            yield Cell(fault, step, scheme, mode, suite)


def some_cells(suite: str) -> Iterator[Cell]:
    """Every fault at every step once, and each of them in all ways, with all others."""
    for row, fault in enumerate(FAULTS):
        for column, step in enumerate(STEPS):
            if step not in fault.not_at:
                scheme = SCHEMES[(row + column) % 2]
                mode = fault.modes[(row + column // 2) % len(fault.modes)]
                yield Cell(fault, step, scheme, mode, suite)
