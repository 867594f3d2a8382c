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
BETWEEN = "between builds"
"""Not a step of a session: the machine has answered within the last second, and is asked for the next build."""

SCHEMES = ("ssh-ng", "ssh")
MODES = ("broker", "standalone")

BUILT = "built"
"""The build succeeds, on this machine or on another."""

GIVEN_UP = "given up"
"""Nix is told that the build failed, or finds out."""


DAMAGED = "cannot use the database '/nix/var/nix/db/db.sqlite': database disk image is malformed; restore it"


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong; `ends_attempt` if the build cannot go on where it is.

    Steps in `either_at` may end otherwise, too, depending on what was read or written before.  `says` is part of one
    line that the user reads.
    """

    name: str
    outcome: str
    ends_attempt: bool = False
    at: tuple[str, ...] = STEPS
    not_at: tuple[str, ...] = ()
    either_at: tuple[str, ...] = ()
    modes: tuple[str, ...] = MODES
    says: str = ""

    def allows(self, outcome: str, step: str) -> bool:
        """Whether a build may end like this."""
        return outcome == self.outcome or step in self.either_at


FAULTS = (
    Fault("hook killed", GIVEN_UP, ends_attempt=True),
    # Before the accept, which may come first if the machine is known to work, the stock hook takes over.
    Fault("broker killed", GIVEN_UP, ends_attempt=True, either_at=("connect", "handshake"), modes=("broker",)),
    Fault("ssh killed", BUILT, ends_attempt=True),
    Fault("sshd killed", BUILT, ends_attempt=True),
    Fault("remote Nix killed", BUILT, ends_attempt=True, not_at=("connect",)),
    Fault("machine rebooted", BUILT, ends_attempt=True),
    Fault("connection reset", BUILT, ends_attempt=True),
    Fault("packets dropped", BUILT, ends_attempt=True),
    # If the inputs are there but it has not heard of the build, that counts as a build that is silent for too long.
    Fault("machine stops reading", BUILT, either_at=("upload end",)),
    Fault("machine sends garbage", BUILT, ends_attempt=True),
    Fault("machine sends half a word", BUILT, ends_attempt=True),
    Fault("machine sends huge lengths", BUILT, ends_attempt=True),
    Fault("machine's disk full", BUILT),
    Fault("collection on the machine", BUILT),
    Fault("disk full here", GIVEN_UP),
    Fault("writing fails here", GIVEN_UP),
    Fault("database busy", BUILT),
    Fault("database corrupt", GIVEN_UP, says=DAMAGED),
    Fault("clock jumps", BUILT),
    Fault("machine gone, local jobs allowed", BUILT, at=(BETWEEN,)),
    # Nobody but a broker has a connection to lose there.
    Fault("network gone, local jobs allowed", BUILT, at=(BETWEEN,), modes=("broker",)),
)


@dataclass(frozen=True)
class Cell:
    """One run: a fault at a step, in one of the ways a build can go."""

    fault: Fault
    step: str
    scheme: str
    mode: str
    suite: str

    @property
    def way(self) -> str:
        """All of it but the fault."""
        return f"{self.step}, {self.scheme}, {self.mode}, {self.suite}"

    def __str__(self) -> str:
        return f"{self.fault.name} at {self.way}".replace(", ", "-").replace(" ", "-")


def all_cells(suites: tuple[str, ...]) -> Iterator[Cell]:
    """Every fault at every step, in every way."""
    for suite, scheme, mode, fault in product(suites, SCHEMES, MODES, FAULTS):
        for step in fault.at:
            if step not in fault.not_at and mode in fault.modes:
                yield Cell(fault, step, scheme, mode, suite)


def some_cells(suite: str, every: int) -> Iterator[Cell]:
    """One in `every` of the pairs of a fault and a step, in one way each; the ways take turns."""
    for row, fault in enumerate(FAULTS):
        for column, step in enumerate(fault.at):
            if step not in fault.not_at and ((row + column) % every == 0 or len(fault.at) == 1):
                turn = row + column // every
                mode = fault.modes[turn // 2 % len(fault.modes)]
                yield Cell(fault, step, SCHEMES[turn % 2], mode, suite)
