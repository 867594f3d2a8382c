"""What a machine is able to do: asked of the machine itself, by one shell script that runs on any Unix with Nix.

The same script runs here, so that speeds can be compared.  Tested in test_survey.py, and in tests/lab/test_add.py.
"""

import math
import re
import shlex
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from hook.cli.probe.shell import CAPABILITIES, system_features
from hook.errors import MachineError
from hook.values.settings import MAX_NUMBER, parse_number

TASK = "let f = n: if n < 2 then n else f (n - 1) + f (n - 2); in f 29"
"""Nix expressions are what both ends can evaluate; like compiling, it is work for one core and its cache."""

ROUNDS = 3
"""The best of them counts: it was disturbed least."""

SPEED_STEP = 1.7
"""From one speed to the next.  What differs by less than a third is taken for equal: so much do two measurements of one
machine, and the decision would prefer whichever was measured in a better moment."""

SLOWEST, FASTEST = 0.1, 100.0
"""What is put into a line at least and at most, whatever the machine says."""

KIB_A_JOB = 2 << 20
"""A job is given two gigabytes of memory, without which large compilations fail."""

MOST_JOBS = 1024
SCRIPT = f"""
echo "cores = $(getconf _NPROCESSORS_ONLN 2>/dev/null || nproc)"
echo "memory-kib = $(sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo 2>/dev/null)"
{CAPABILITIES}
for round in {" ".join(map(str, range(ROUNDS)))}; do
  echo task
  (nix-instantiate --eval -E {shlex.quote(TASK)} </dev/null >/dev/null; times)
done
"""

NAME = re.compile(r"[\w.+-]+", re.ASCII)
"""A system or a feature.  What it says becomes part of a line in which `;` begins another machine."""

CPU_TIME = re.compile(r"([0-9]{1,9})m([0-9]{1,9}(?:\.[0-9]{1,9})?)s")

KVM = """
derivation {
  name = "nix-ferry-asks-for-kvm";
  system = "%s";
  seed = "%s";
  requiredSystemFeatures = [ "kvm" ];
  builder = "/bin/sh";
  args = [ "-c" "[ -c /dev/kvm ] && exec 3<>/dev/kvm && echo > $out" ];
}
"""


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found.  `task_s` is the processor time of the task; `memory_kib` is 0 if it does not say."""

    systems: tuple[str, ...]
    features: frozenset[str]
    cores: int
    memory_kib: int
    task_s: float

    @property
    def max_jobs(self) -> int:
        """As many as it has cores, and memory for."""
        by_memory = self.memory_kib // KIB_A_JOB if self.memory_kib else self.cores
        return max(1, min(self.cores, by_memory, MOST_JOBS))

    def speed_against(self, here: "Survey") -> float:
        """How many times as fast as this host it is, in steps so coarse that equal machines are equal."""
        if not (self.task_s and here.task_s):
            return 1.0
        speed = SPEED_STEP ** round(math.log(here.task_s / self.task_s, SPEED_STEP))
        return min(max(float(f"{speed:.2g}"), SLOWEST), FASTEST)


def parse_survey(text: str) -> Survey:
    """Read what SCRIPT printed.  MachineError if that is not an answer."""
    values: dict[str, str] = {}
    times: list[float] = []
    lines = iter(text.splitlines())
    for line in lines:
        name, separator, value = line.partition(" =")
        if separator:
            values[name] = value.strip()
        elif line == "task":
            # The first line is the shell's own time, the second that of what it ran.
            next(lines, "")
            if found := CPU_TIME.search(next(lines, "")):
                times.append(int(found[1]) * 60 + float(found[2]))
    if not values.get("system") or not times:
        raise MachineError("it does not tell its Nix settings: is 'nix' in PATH of a non-interactive login there?")
    systems = dict.fromkeys([values["system"], *values.get("extra-platforms", "").split()])
    experiments = values.get("experimental-features", "").split()
    features = system_features(values.get("system-features", "").split(), experiments)
    if strange := [name for name in (*systems, *features) if not NAME.fullmatch(name)]:
        raise MachineError(f"it names a system or feature that cannot be one: {strange[0]!r}")
    return Survey(
        systems=tuple(systems),
        features=features,
        cores=_number(values.get("cores", "")) or 1,
        memory_kib=_number(values.get("memory-kib", "")),
        task_s=min(times),
    )


def kvm_script(system: str) -> str:
    """A script that fails unless a build there can use /dev/kvm, which Nix promises if only its daemon can."""
    expression = KVM % (system, uuid.uuid4())
    settings = "--option substitute false --option max-jobs 1 --option builders ''"
    return f"nix-build --no-out-link {settings} -E {shlex.quote(expression)} </dev/null >/dev/null\n"


def survey_here(environ: Mapping[str, str]) -> Survey:
    """The same of this host."""
    done = subprocess.run(
        ["sh", "-s"], env=environ, input=SCRIPT, capture_output=True, text=True, errors="replace", check=False
    )
    return parse_survey(done.stdout)


def _number(text: str) -> int:
    """Any number that does not fit into 64 bits is none."""
    return parse_number(text, MAX_NUMBER) or 0
