"""A client and two machines, the faster of which can be stopped at any step of a session; the other one is well."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults import tap
from tests.faults.matrix import SCHEMES
from tests.lab.host import Host, wait_until
from tests.lab.install import HOOK, PREFIX, file_of
from tests.lab.midway import WARM, is_clean, running

TAP = "/usr/local/bin/fault-tap"
PRELOAD = "/usr/local/lib/fault-preload.so"
BROKER = f"{PREFIX}/bin/nix-ferry-broker"
PRELOADED = "/run/fault-preloaded"
"""Exists while brokers that start are to have the library, too; nothing of a caller's environment becomes theirs."""

PRELOADING = f"""#!/bin/sh
[ ! -e {PRELOADED} ] || export LD_PRELOAD={PRELOAD}
exec {BROKER}.real "$@"
"""
ROOM = "32m"
"""For the stores of the client and of the first machine, so that they can be filled quickly."""

LIMITS = {
    "hook.remote.connection": ("QUERY_SILENCE_S", 3.0),
    "hook.transfer.copier": ("UPLOAD_SILENCE_S", 3.0),
    "hook.remote.child": ("HANDSHAKE_S", 5.0),
}
"""Patience with a machine that does nothing is a matter of constants, of up to five minutes; it is this long here."""

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
PATIENT = "PerSourcePenalties no"
DATABASE = {"db.sqlite": 100, "db.sqlite-wal": 32}
"""Its files, and how long their headers are."""

BOUND_S = 30.0
"""Within this time a build ends, whatever goes wrong; many times what it takes, for machines with much to do."""


class Site:
    """Three hosts; the methods from `arm` on are about the machine that things go wrong with.

    `library` is preload.c, compiled.
    """

    def __init__(self, client: Host, first: Host, second: Host, library: Path) -> None:
        self.client, self.first, self.second = client, first, second
        self._seed = 0
        self._holder: subprocess.Popen[str] | None = None
        self._sound: dict[str, bytes] = {}
        self._modules = {name: client.read_file(file_of(name)) for name in LIMITS}
        for name, (limit, seconds) in LIMITS.items():
            text, count = re.subn(rf"(?m)^{limit} = .*", f"{limit} = {seconds}", self._modules[name])
            assert count == 1, name
            client.write_file(file_of(name), text)
        shutil.copy(library, client.path(PRELOAD))
        client.run(["mv", BROKER, f"{BROKER}.real"])
        client.write_file(BROKER, PRELOADING, 0o755)
        for host in (client, first):
            host.write_file(TAP, f"#!/usr/bin/python3 -IS\n{Path(tap.__file__).read_text()}", 0o755)
            host.path(str(tap.DIRECTORY)).mkdir(exist_ok=True)
            host.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "small", "/nix"])
        client.trust(second)
        client.write_file("/root/fault.nix", GRAPH)
        first.stop_sshd()
        self.boot()

    def _introduce(self) -> None:
        """Have the client reach the first machine through a tap."""
        self.client.trust(self.first)
        own = self.client.read_file(f"/root/.ssh/hosts/{self.first.name}")
        self.client.write_file(f"/root/.ssh/hosts/{self.first.name}", f"{own}  ProxyCommand {TAP} %h %p\n", 0o600)

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
    def building(
        self, environ: Mapping[str, str] | None = None, options: Sequence[str] = ()
    ) -> Iterator["subprocess.Popen[str]"]:
        """The build runs meanwhile."""
        self.client.run(["touch", PRELOADED] if "LD_PRELOAD" in (environ or {}) else ["rm", "-f", PRELOADED])
        command = ["nix-build", "/root/fault.nix", "--argstr", "seed", str(self._seed), "-j0", "--no-out-link"]
        with running(self.client, [*command, *options], environ) as build:
            yield build

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

    def shut_down(self) -> None:
        """Have every process of the machine vanish, and nobody listen there."""
        self.first.stop_sshd()
        _kill_all(self.first)

    def boot(self) -> None:
        """Have it listen again; its store is as it was left."""
        # Since OpenSSH 9.8 it locks out an address whose sessions have come to a bad end.
        known = self.first.run(["/usr/sbin/sshd", "-t", "-o", PATIENT], check=False).returncode == 0
        self.first.start_sshd(*[PATIENT] * known)
        self._introduce()

    def fill(self, host: Host) -> None:
        """Leave no room in the store of a host, until `clear`."""
        with host.path("/nix/filler").open("wb", buffering=0) as filler:
            for size in (1 << 20, 1 << 12):
                with suppress(OSError):
                    while True:
                        filler.write(bytes(size))

    def clear(self, host: Host) -> None:
        """Undo `fill`."""
        host.path("/nix/filler").unlink(missing_ok=True)

    def flag(self, name: str) -> None:
        """Have preload.c do something, until `disarm`."""
        self._file("connect").with_name(name).touch()

    # The client's database

    def lock_database(self) -> None:
        """Have nobody write to it until it is unlocked."""
        if self._holder is None:
            self._holder = self.client.popen(["python3", "-ISc", LOCK], stdin=subprocess.PIPE)
            assert self._holder.stdout is not None
            assert self._holder.stdout.readline() == "locked\n"

    def unlock_database_in_time(self) -> None:
        """Unlock it when a build waits for that."""
        self.wait_for_output()
        self.unlock_database()

    def unlock_database(self) -> None:
        """Undo `lock_database`."""
        if self._holder is not None:
            self.client.end(self._holder)
            # Closes its pipes.
            self._holder.communicate()
            self._holder = None

    def corrupt_database(self) -> None:
        """Overwrite everything in it but its headers."""
        for name, header_bytes in DATABASE.items():
            file = self.client.path(f"/nix/var/nix/db/{name}")
            if file.exists():
                self._sound[name] = content = file.read_bytes()
                with file.open("r+b") as damaged:
                    damaged.seek(header_bytes)
                    damaged.write(b"\xa5" * (len(content) - header_bytes))

    def mend_database(self) -> None:
        """Undo `corrupt_database`, after the end of everybody who has it open."""
        self.client.stop_broker()
        self.client.wait_idle()
        for file in self.client.path("/nix/var/nix/db").glob("db.sqlite*"):
            file.unlink()
        for name, content in self._sound.items():
            self.client.path(f"/nix/var/nix/db/{name}").write_bytes(content)
        self._sound.clear()

    # Between tests

    def end_all(self) -> None:
        """Undo what an earlier test may have left behind."""
        self.unlock_database()
        self.disarm()
        for host in (self.client, self.first, self.second):
            _kill_all(host)
        for host in (self.client, self.first):
            self.clear(host)
            # Each test leaves some; without a store everything is as at the beginning.
            space = os.statvfs(host.path("/nix"))
            if space.f_bavail < space.f_blocks // 2:
                host.run(["sh", "-c", "rm -rf /nix/*"])

    def close(self) -> None:
        """Leave the hosts as others expect them."""
        self.end_all()
        for name, text in self._modules.items():
            self.client.write_file(file_of(name), text)
        for host in (self.client, self.first, self.second):
            host.wait_idle()
        self.client.run(["mv", f"{BROKER}.real", BROKER])
        for host in (self.client, self.first):
            host.run(["umount", "/nix"])
        self.first.stop_sshd()
        self.first.start_sshd()
        self.client.trust(self.first)


def _kill_all(host: Host) -> None:
    for process in host.processes():
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
