"""How many bytes a second the link to a machine carries, each way, by the same ssh as builds.

Random bytes, so that no compression flatters it, for at most a few seconds; nothing is written to the machine's disk.
Tested in test_speed.py, and in tests/lab/test_command.py.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from hook.cli.probe.shell import shell_command
from hook.errors import FerryError, MachineError
from hook.machines.builders import Machine
from hook.remote.child import Command
from hook.remote.routes import Routes
from hook.remote.sharing import session_options
from hook.remote.ssh import options_first, ssh_configuration

MOST_BYTES = 128 << 20
MOST_S = 3.0
"""Each way, counted from when the machine is ready."""

PATIENCE_S = 30.0
"""For all of that, a login included; then the connection is ended."""

CHUNK_BYTES = 256 << 10
HEADER = ("UPLOAD", "DOWNLOAD")
READY = b"nix-ferry ready\n"
UPLOAD = "echo nix-ferry ready; wc -c"
DOWNLOAD = f"echo nix-ferry ready; head -c {MOST_BYTES} /dev/urandom"


@dataclass(frozen=True, slots=True)
class Speed:
    """Bytes a second, to the machine and back; None where that could not be measured."""

    upload: float | None = None
    download: float | None = None

    def row(self) -> tuple[str, str]:
        """Cells of a table."""
        return _rate(self.upload), _rate(self.download)


def measure(machine: Machine, routes: Routes) -> Speed:
    """Measure one machine; it takes up to twice MOST_S, and a login for each way."""
    return Speed(_measure(machine, routes, UPLOAD, upload), _measure(machine, routes, DOWNLOAD, download))


def _measure(
    machine: Machine, routes: Routes, command: str, run: Callable[["subprocess.Popen[bytes]"], float | None]
) -> float | None:
    try:
        ssh = shell_command(machine, routes, command)
        return None if ssh is None else _run(_as_builds_do(ssh), run)
    except (FerryError, OSError):
        return None


def _as_builds_do(ssh: Command) -> Command:
    try:
        options, _ = session_options(ssh, ssh_configuration(ssh))
    except MachineError:
        options = None
    return replace(ssh, argv=options_first(ssh.argv, options or ()))


def _run(ssh: Command, run: Callable[["subprocess.Popen[bytes]"], float | None]) -> float | None:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        ssh.argv, env=ssh.environ, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, bufsize=0
    ) as child:
        patience = threading.Timer(PATIENCE_S, child.kill)
        patience.start()
        try:
            return run(child)
        finally:
            patience.cancel()
            child.kill()


def upload(child: "subprocess.Popen[bytes]") -> float | None:
    """Bytes a second that the other end of `child`, which runs UPLOAD, has counted."""
    assert child.stdin is not None
    assert child.stdout is not None
    if not _is_ready(child.stdout.fileno()):
        return None
    chunk, sent = os.urandom(CHUNK_BYTES), 0
    start = time.monotonic()
    while sent < MOST_BYTES and time.monotonic() - start < MOST_S:
        sent += os.write(child.stdin.fileno(), chunk)
    child.stdin.close()
    counted = child.stdout.read().strip()
    return sent / (time.monotonic() - start) if counted == str(sent).encode() else None


def download(child: "subprocess.Popen[bytes]") -> float | None:
    """Bytes a second that come from `child`, which runs DOWNLOAD."""
    assert child.stdout is not None
    fd = child.stdout.fileno()
    if not _is_ready(fd):
        return None
    received = 0
    start = time.monotonic()
    while time.monotonic() - start < MOST_S and (data := os.read(fd, CHUNK_BYTES)):
        received += len(data)
    return received / (time.monotonic() - start) if received else None


def _is_ready(fd: int) -> bool:
    """Read exactly what the machine says first; False if it says something else."""
    said = b""
    while len(said) < len(READY) and (data := os.read(fd, len(READY) - len(said))):
        said += data
    return said == READY


def _rate(bytes_per_s: float | None) -> str:
    return "-" if bytes_per_s is None else f"{bytes_per_s / (1 << 20):.3g} MiB/s"
