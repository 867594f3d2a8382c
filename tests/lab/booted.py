"""A host that systemd has booted, with nix-ferry and a Nix daemon that is a unit.

It shares the network of the machine it runs on, and has a cgroup there, which goes with it.  Memory and the number of
tasks cannot be limited in it, and what newer systemds than bookworm's do is not seen.  Tested by
tests/environments/test_units.py.
"""

import contextlib
import os
import re
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.lab import install
from tests.lab.container import NAMESPACES, Output, wait_until
from tests.lab.host import SOCKET, Host, connects
from tests.lab.lab import GRAPHS

CGROUPS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")
"""Where the second version of them is mounted; the first of these that is it."""

SYSTEMD = "/lib/systemd/systemd"
MANAGER = "/run/systemd/private"
DAEMON = """\
[Service]
ExecStart=/usr/bin/nix-daemon
KillMode=process
"""
"""As upstream has it, for what matters here."""

ENTER = 'mkdir -p "$0" && echo $$ > "$0/cgroup.procs" && exec setpriv --pdeathsig KILL "$@"'


class Booted(Host):
    """The host `name` on the root directory `lower`, with the tree `ferry` installed; a context manager."""

    namespaces = (*NAMESPACES, "--cgroup")

    def __init__(self, name: str, lower: str | Path, ferry: Path, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(name, lower, settings)
        self._ferry = ferry
        base = next(path for path in map(Path, CGROUPS) if (path / "cgroup.procs").exists())
        self._cgroup = base / f"nix-ferry-lab-{os.getpid()}-{name}"

    def start_command(self) -> list[str]:
        """Return what starts its first process."""
        return ["sh", "-c", ENTER, str(self._cgroup), *super().start_command(), SYSTEMD]

    def start(self) -> Self:
        """Boot it; about a second."""
        super().start()
        wait_until(self.path(MANAGER).exists, "the start of systemd")
        self.systemctl("is-system-running", "--wait", check=False)
        install.install(self._ferry, self)
        shutil.copytree(Path(__file__).with_name("graphs"), self.path(GRAPHS), symlinks=True)
        self.unit("nix-daemon.service", DAEMON)
        return self

    def stop(self) -> None:
        """Kill it with all that runs in it."""
        super().stop()
        for directory, _, _ in os.walk(self._cgroup, topdown=False):
            # The kernel frees the last ones a moment after the processes.
            def removed(path: str = directory) -> bool:
                with contextlib.suppress(OSError):
                    os.rmdir(path)
                return not os.path.exists(path)

            wait_until(removed, f"the end of {directory}")

    def use(self, machine: Host) -> None:
        """Build there, and nowhere else."""
        self.trust(machine)
        self.configure(builders=f"ssh-ng://{machine.name} - - 8", max_jobs="0", build_hook=install.HOOK)
        self.hook = install.HOOK
        self.run(["nix-store", "--init"])

    def tidy(self) -> None:
        """End what builds and brokers have left, with nix-daemon, and forget the broker's unit."""
        self.systemctl("stop", "nix-daemon", "nix-ferry-broker*")
        self.run(["rm", "-f", "/etc/systemd/system/nix-ferry-broker.service"])
        self.systemctl("daemon-reload")
        self.systemctl("reset-failed")
        wait_until(lambda: not self.brokers(), "the end of brokers")

    def brokers(self) -> dict[int, str]:
        """Return the brokers: process id, as seen from outside, → unit."""
        units = {}
        for pid, command in self.processes().items():
            # One may end meanwhile.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if re.match(r"\S+ \S*nix-ferry-broker", command):
                    units[pid] = self.unit_of(pid)
        return units

    def systemctl(self, *words: str, check: bool = True) -> Output:
        """Run systemctl."""
        return self.run(["systemctl", *words], check=check)

    def restart_daemon(self) -> None:
        """Start nix-daemon, or start it anew."""
        self.systemctl("restart", "nix-daemon")
        wait_until(lambda: connects(socket.AF_UNIX, str(self.path(SOCKET))), "nix-daemon")

    def unit(self, name: str, text: str) -> None:
        """Write a unit of the host's administrator."""
        self.write_file(f"/etc/systemd/system/{name}", text)
        self.systemctl("daemon-reload")

    def journal(self, unit: str) -> str:
        """Return what is logged about a unit."""
        return self.run(["journalctl", "--no-pager", "--output=cat", f"--unit={unit}"]).stdout

    def unit_of(self, pid: int) -> str:
        """Return the unit of a process, which has this number out here."""
        return Path(f"/proc/{pid}/cgroup").read_text().strip().rpartition("::")[2].rpartition("/")[2]
