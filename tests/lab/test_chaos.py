"""Many builds of three Nix clients at once, on five machines, while whatever takes part in them is killed at random.

What is killed, and when, follows from a seed.  `make chaos` does it for ten minutes with 500 builds at a time.
"""

import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest

from tests.lab import roots
from tests.lab.host import Host, Output
from tests.lab.install import HOOK
from tests.lab.lab import Lab
from tests.lab.midway import BROKER, HOOK_PROCESS, REMOTE_NIX, SSH, SSHD_SESSION, is_clean

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]

MACHINES = 5
CLIENTS = 3
SEED = 7
BOUND_S = 240.0
"""Within which all builds of one command end, however often they are begun anew."""

PAUSE_S = 0.3
"""Between two kills."""

GRAPH = """
{ seed, first, count }:
let
  make = number: derivation {
    name = "chaos-${toString number}-${seed}";
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    input = builtins.toFile "input-${toString number}" seed;
    args = [ "-euc" "seq 200; sleep 0.${toString (number - number / 10 * 10)}; cat $input > $out; seq 20000 >> $out" ];
  };
in
builtins.genList (number: make (first + number)) count
"""
ON_CLIENT, ON_MACHINE = (SSH, HOOK_PROCESS, BROKER), (SSHD_SESSION, REMOTE_NIX)


class Killer(threading.Thread):
    """Kills a process of some host now and then, until `stop`."""

    def __init__(self, client: Host, machines: list[Host]) -> None:
        super().__init__()
        self.killed: Counter[str] = Counter()
        self._client, self._machines = client, machines
        self._over = threading.Event()
        self._random = random.Random(SEED)

    def run(self) -> None:
        while not self._over.wait(PAUSE_S):
            host = self._random.choice([self._client, *self._machines])
            pattern = self._random.choice(ON_CLIENT if host is self._client else ON_MACHINE)
            if found := [process for process, command in host.processes().items() if re.match(pattern, command)]:
                with suppress(ProcessLookupError):
                    os.kill(self._random.choice(found), signal.SIGKILL)
                    self.killed[pattern] += 1

    def stop(self) -> None:
        self._over.set()
        self.join()


@pytest.fixture
def machines(fresh: Callable[[Host], Host], lab: Lab) -> Iterator[list[Host]]:
    """Some of each release."""
    with ExitStack() as held:
        made = [fresh(lab.builder(suite)) for suite in roots.SUITES]
        for number in range(MACHINES - len(made)):
            suite = roots.SUITES[-1 - number]
            made.append(held.enter_context(Host(f"another-{number}", roots.root(suite))))
            made[-1].start_sshd()
        yield made


def test_all_builds_end_and_succeed_when_nothing_is_killed_any_more(
    lab: Lab, fresh: Callable[[Host], Host], machines: list[Host], request: pytest.FixtureRequest
) -> None:
    """A killed hook fails its build, a killed broker those of its hooks; the rest is built, nothing stays."""
    seconds, builds = (int(word) for word in request.config.getoption("--chaos").split("x"))
    client = fresh(lab.client(roots.SUITES[-1]))
    lab.standalone(False)
    for machine in machines:
        client.trust(machine)
    lines = [f"ssh{'-ng' * (number % 2)}://{machine.name} - - 4" for number, machine in enumerate(machines)]
    client.configure(hook=HOOK, builders=" ; ".join(lines))
    client.run(["nix-store", "--init"])
    client.write_file("/root/chaos.nix", GRAPH)
    each = -(-builds // CLIENTS)

    def build(own: int, seed: str) -> Output:
        command = ["nix-build", "/root/chaos.nix", "-j0", "-k", "--no-out-link", "--argstr", "seed", seed]
        command += ["--arg", "first", str(own * each), "--arg", "count", str(each)]
        return client.run(command, check=False, timeout=BOUND_S)

    def keep_building(own: int) -> str:
        """Build new things until the time is over; returns the last ones' seed."""
        number = 0
        while True:
            build(own, seed := f"{own}-{number}")
            if time.monotonic() > deadline:
                return seed
            number += 1

    deadline = time.monotonic() + seconds
    killer = Killer(client, machines)
    killer.start()
    with ThreadPoolExecutor(CLIENTS) as clients:
        try:
            seeds = list(clients.map(keep_building, range(CLIENTS)))
        finally:
            killer.stop()
        ends = list(clients.map(build, range(CLIENTS), seeds))
    for end in ends:
        assert end.returncode == 0, end.stderr
        assert len(end.stdout.split()) == each
    assert killer.killed
    print(f"{sum(killer.killed.values())} kills: {dict(killer.killed)}; last rounds {seeds}")
    is_clean(client, *machines)
