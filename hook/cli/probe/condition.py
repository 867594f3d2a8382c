"""What a machine that is reached by ssh says of itself besides Nix's protocol: its clock, its disk, what it can build.

A machine whose login runs nothing but Nix says nothing.  Tested in test_condition.py, and in tests/lab/test_doctor.py.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from hook.cli.probe.shell import CAPABILITIES, MOST_SAID, SSH_FAILED, run, shell_command, system_features
from hook.cli.probe.together import at_once
from hook.errors import FerryError
from hook.machines.builders import Machine
from hook.remote.routes import Routes
from hook.values.settings import MAX_NUMBER, parse_number

TIMEOUT_S = 30

CLOCK_OFF_S = 60
"""What no slow link explains; signatures, caches and `make` begin to be wrong."""

LOW_DISK_KIB = 1 << 20

RUNS = "nix-ferry shell ="

SCRIPT = f"""
echo "nix-ferry clock = $(date +%s)"
echo "nix-ferry free-kib = $({{ df -Pk /nix/store 2>/dev/null || df -Pk /; }} | awk 'END {{ print $4 }}')"
({CAPABILITIES}) | sed 's/^/nix-ferry /'
"""


@dataclass(frozen=True, slots=True)
class Condition:
    """What it said.  `clock_off_s` is how far its clock is ahead of ours, 0 if the time it took explains that."""

    clock_off_s: int
    free_kib: int | None
    systems: tuple[str, ...]
    features: frozenset[str]

    @property
    def builds(self) -> str:
        """What it could build, in words."""
        return f"builds {', '.join(self.systems)} with {', '.join(sorted(self.features)) or 'no features'}"

    @property
    def free(self) -> str:
        """The room in its store, in words; empty if that is not known."""
        return "" if self.free_kib is None else f"{self.free_kib / (1 << 20):.1f} GiB free"

    def wrong_claims(self, machine: Machine) -> list[str]:
        """What its line in `builders` says it can do, and it cannot."""
        systems = [f"system '{system}'" for system in machine.systems if system not in self.systems]
        claimed = sorted((machine.supported | machine.mandatory) - self.features)
        return systems + [f"feature '{feature}'" for feature in claimed]


def conditions(machines: Sequence[Machine | None], routes: Routes) -> list[Condition | None]:
    """Ask all of them at once, and nobody where there is None."""
    return at_once(lambda machine: _ask(machine, routes) if machine else None, machines)


def _ask(machine: Machine, routes: Routes) -> Condition | None:
    try:
        shell = shell_command(machine, routes, "sh")
        if shell is None:
            return None
        start = time.time()
        done = run(shell.argv, shell.environ, SCRIPT, machine.uri.text, TIMEOUT_S)
    except (FerryError, OSError):
        return None
    return parse_condition(done.stdout, start, time.time())


@dataclass(frozen=True, slots=True)
class Shell:
    """What becomes of a command there: whether it is run, by which login shell, and what is said instead."""

    runs: bool
    name: str = ""
    said: str = ""


def shells(machines: Sequence[Machine | None], routes: Routes) -> list[Shell | None]:
    """Ask all of them at once, and nobody where there is None; None for one that is not reached by ssh."""
    return at_once(lambda machine: _shell(machine, routes) if machine else None, machines)


def _shell(machine: Machine, routes: Routes) -> Shell | None:
    try:
        command = shell_command(machine, routes, f"echo {RUNS} $SHELL")
        if command is None:
            return None
        done = run(command.argv, command.environ, "", machine.uri.text, TIMEOUT_S)
    except (FerryError, OSError):
        return None
    return parse_shell(done.stdout, done.returncode)


def parse_shell(text: str, status: int) -> Shell | None:
    """What was printed and the exit status of ssh; None if ssh itself did not get there."""
    for line in text.splitlines():
        if line.startswith(RUNS):
            return Shell(True, line.removeprefix(RUNS).strip())
    if status == SSH_FAILED:
        return None
    return Shell(False, said=" ".join(text.split())[:MOST_SAID])


def parse_condition(text: str, start: float, end: float) -> Condition | None:
    """What SCRIPT printed between two times of our clock, among whatever else the login printed; None if it did not."""
    lines = (line.removeprefix("nix-ferry ") for line in text.splitlines() if line.startswith("nix-ferry "))
    values = {name.rstrip(): value.split() for name, _, value in (line.partition("=") for line in lines)}
    clock, free = _number(values.get("clock")), _number(values.get("free-kib"))
    if clock is None or not values.get("system"):
        return None
    # It tells whole seconds.
    off = clock - end if clock > end else min(0, clock + 1 - start)
    return Condition(
        clock_off_s=round(off),
        free_kib=free,
        systems=tuple(dict.fromkeys([*values["system"], *values.get("extra-platforms", [])])),
        features=system_features(values.get("system-features", []), values.get("experimental-features", [])),
    )


def _number(words: list[str] | None) -> int | None:
    return parse_number(words[0], MAX_NUMBER) if words else None
