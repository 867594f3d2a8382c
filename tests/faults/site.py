"""A client and two machines, the faster of which can be stopped at any step of a session; the other one is well."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults import tap
from tests.faults.matrix import SCHEMES
from tests.lab.host import Host, wait_until
from tests.lab.install import HOOK
from tests.lab.midway import WARM, is_clean, running

TAP = "/usr/local/bin/fault-tap"
BLOCK = "".join(f"{number:07}\n" for number in range(20_000))
"""Between two marks of a file, more than pipes and the tap have in them."""

INPUT = f"{{seed}} <upload start>\n{BLOCK}<upload middle>\n{BLOCK}<upload end>"
GRAPH = """
{ seed }: derivation {
  name = "fault-${seed}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  PATH = "/usr/bin:/bin";
  input = builtins.path { path = ./fault-input; };
  args = [ "-euc" ''
    stop() { echo "<$1>"; while [ -e "/run/faults/$2.hold" ]; do sleep 0.01; done; }
    stop "build runs" build
    seq 3000
    stop "log burst" "log burst"
    seq 3000
    sed 's/^<up/<down/; s/<upload start>/<download start>/' $input > $out
  '' ];
}
"""
LOCK = """
import sqlite3, sys
database = sqlite3.connect("/nix/var/nix/db/db.sqlite", isolation_level=None, timeout=60)
database.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""
BOUND_S = 30.0
"""Within this time a build ends, whatever goes wrong; many times what it takes, for machines with much to do."""


class Site:
    """Three hosts; the methods from `arm` on are about the machine that things go wrong with."""

    def __init__(self, client: Host, first: Host, second: Host) -> None:
        self.client, self.first, self.second = client, first, second
        self._seed = 0
        for host in (client, first):
            host.write_file(TAP, f"#!/usr/bin/python3 -IS\n{Path(tap.__file__).read_text()}", 0o755)
        for host in (client, first, second):
            host.path(str(tap.DIRECTORY)).mkdir(exist_ok=True)
        for machine in (first, second):
            client.trust(machine)
        own = client.read_file(f"/root/.ssh/hosts/{first.name}")
        client.write_file(f"/root/.ssh/hosts/{first.name}", f"{own}  ProxyCommand {TAP} %h %p\n", 0o600)
        client.write_file("/root/fault.nix", GRAPH)

    def use(self, scheme: str, mode: str) -> None:
        """Build over this protocol from now on, with or without a broker."""
        assert scheme in SCHEMES
        first, second = (f"{scheme}://{host.name}" for host in (self.first, self.second))
        self.client.standalone = mode == "standalone"
        self.client.configure(hook=HOOK, builders=f"{first}?remote-program={TAP} - - 2 9 ; {second} - - 2 1")

    def fresh_input(self) -> None:
        """From now on builds are ones that nobody has made yet, of an input that no machine has."""
        self._seed += 1
        # So many bytes that the output has a multiple of eight.
        text = INPUT.format(seed=f"{self._seed:07}")
        text = "#" * (-(len(text) + 3 * len("down") - 3 * len("up")) % 8) + text
        self.client.path("/root/fault-input").write_text(text)

    @contextmanager
    def building(self) -> Iterator["subprocess.Popen[str]"]:
        """The build runs meanwhile."""
        command = ["nix-build", "/root/fault.nix", "--argstr", "seed", str(self._seed), "-j0", "--no-out-link"]
        with running(self.client, command) as build:
            yield build

    @contextmanager
    def database_locked(self) -> Iterator[None]:
        """Nobody can write to the client's database meanwhile."""
        with self.client.popen(["python3", "-ISc", LOCK], stdin=subprocess.PIPE) as holder:
            try:
                assert holder.stdout is not None
                assert holder.stdout.readline() == "locked\n"
                yield
            finally:
                self.client.end(holder)

    def wait_for_output(self) -> None:
        """Wait until the output is whole on the client's disk; only registering it is left to do."""

        def restored() -> bool:
            found = self.client.path("/nix/store").glob(f"*-fault-{self._seed}")
            return any(path.lstat().st_mtime == 1 for path in found)

        wait_until(restored, "the output")

    def is_clean(self) -> None:
        """Nothing of any build is left anywhere."""
        is_clean(self.client, self.first, self.second, warm=f"{WARM}|.* {TAP}")

    # Where things go wrong

    def _host(self, step: str) -> Host:
        return self.client if step in tap.LINK_STEPS else self.first

    def _file(self, step: str, suffix: str = "") -> Path:
        return self._host(step).path(str(tap.DIRECTORY)) / f"{step}{suffix}"

    def arm(self, step: str, act: str = "") -> None:
        """Have the next session stop at `step`, and then do what tap.py knows as `act`."""
        self._file(step).write_text(act)

    def wait_for(self, step: str) -> None:
        """Wait until a session is there."""
        wait_until(self._file(step, ".reached").exists, step)

    def go_on(self, step: str) -> None:
        """Let the session go on."""
        self._file(step, ".go").touch()

    def hold_build(self, step: str) -> None:
        """Keep a build on the first machine from going on behind `step`, if it is one of a build, until `disarm`."""
        self._file(step, ".hold").touch()

    def disarm(self) -> None:
        """From now on sessions do not stop, and no build is held."""
        for host in (self.client, self.first):
            for file in host.path(str(tap.DIRECTORY)).iterdir():
                file.unlink()

    def end_all(self) -> None:
        """Kill whatever an earlier test may have left behind."""
        self.disarm()
        for host in (self.client, self.first, self.second):
            for process in host.processes():
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def close(self) -> None:
        """Leave the hosts as others expect them."""
        self.end_all()
        self.client.trust(self.first)
        for host in (self.client, self.first, self.second):
            host.wait_idle()
