"""A hook at work: the real executable's code on a small store, with scripted machines, and what came out of it."""

import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from hook.front.front import format_request, format_settings
from hook.front.request import Request
from hook.machines.builders import parse_machines
from hook.protocol.wire import Writer
from hook.values.settings import Settings
from tests.fakes import DAEMON_IN_URI
from tests.fakes.store import FakeStore
from tests.standing import broker_socket

HOOK = str(Path(sys.executable).with_name("nix-ferry-hook"))
SYSTEM = "x86_64-linux"


STOCK = """#!/bin/sh
echo "$*" > {directory}/arguments
for slot in {state}/current-load/*-[0-9]; do flock -n "$slot" true || echo "$slot"; done > {directory}/busy
echo '# decline-permanently' >&2
cat > {directory}/given
exit 7
"""


class Stock:
    """A `nix` in a directory of its own, which answers for good as stock hook and ends with status 7."""

    def __init__(self, directory: Path, state: Path) -> None:
        self.directory = directory
        directory.mkdir()
        (directory / "nix").write_text(STOCK.format(directory=directory, state=state))
        (directory / "nix").chmod(0o755)

    @property
    def given(self) -> bytes:
        """What it read."""
        return (self.directory / "given").read_bytes()

    @property
    def arguments(self) -> list[str]:
        return (self.directory / "arguments").read_text().split()

    @property
    def busy(self) -> str:
        """Which slots were taken when it began."""
        return (self.directory / "busy").read_text()


@dataclass
class Outcome:
    """What came out of one run of the hook."""

    status: int
    lines: list[str]

    @property
    def answers(self) -> list[str]:
        return [line for line in self.lines if line.startswith("# ")]

    @property
    def by_stock(self) -> bool:
        """Whether the stock hook answered, and nobody else."""
        return (self.status, self.answers) == (7, ["# decline-permanently"])

    @property
    def events(self) -> list[dict[str, object]]:
        return [json.loads(line[5:]) for line in self.lines if line.startswith("@nix ")]

    @property
    def messages(self) -> str:
        return "\n".join(str(event["msg"]) for event in self.events if event["action"] == "msg")

    @property
    def texts(self) -> list[str]:
        """What the started activities say."""
        return [str(event["text"]) for event in self.events if event["action"] == "start"]


class Bench:
    """A store and machines, and a hook run on them, in one process or through a broker of its own."""

    def __init__(self, root: Path, *, broker: bool, program: str = HOOK) -> None:
        self.program = program
        self.store = FakeStore(root)
        self.broker = broker
        self.stock = Stock(root / "stock", self.store.state)
        # The address of a socket has 108 bytes, which a test's own directory can be too long for.
        self.hook_state = Path(tempfile.mkdtemp(prefix="nix-ferry-"))
        self._ops = root / "ops"
        self._connections = root / "connections"
        self.conf_dir = root / "etc"
        self.conf_dir.mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if (pid := self.broker_pid()) is not None:
            # One that has made room ends by itself.
            with suppress(ProcessLookupError):
                _kill(pid)
        shutil.rmtree(self.hook_state, ignore_errors=True)

    def broker_pid(self) -> int | None:
        """The process that serves our hooks, if there is one."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(broker_socket(self.hook_state / "nix-ferry")))
            except (FileNotFoundError, ConnectionRefusedError):
                return None
            return int.from_bytes(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), "little")

    def kill_broker(self) -> None:
        """As the kernel does when memory is short; afterwards it holds nothing any more."""
        pid = self.broker_pid()
        assert pid is not None
        _kill(pid)

    def machine(self, behaviour: str, name: str = "", speed: int = 1, scheme: str = "ssh-ng", jobs: int = 2) -> str:
        # The name makes the URI, and with it the machine, distinct.
        program = f"{DAEMON_IN_URI}%20{behaviour}%20{name}"
        return f"{scheme}://localhost?remote-program={program} {SYSTEM} - {jobs} {speed}"

    def preamble(self, machines: Sequence[str], **settings: str) -> bytes:
        values = {
            "builders": "\n".join(machines),
            "store": f"local?root={self.store.root}",
            "system": SYSTEM,
            "max-jobs": "0",
            **{name.replace("_", "-"): value for name, value in settings.items()},
        }
        return format_settings(Settings(values))

    def request(
        self, drv_path: str = "", system: str = SYSTEM, features: Sequence[str] = (), *, am_willing: bool = False
    ) -> bytes:
        return format_request(
            Request(
                system=system,
                drv_path=drv_path or self.store.drv_path,
                features=frozenset(features),
                am_willing=am_willing,
            )
        )

    def job(self, wanted: Sequence[str] = ("dev", "out"), inputs: Sequence[str] = ()) -> bytes:
        w = Writer()
        w.strings([self.store.source, *inputs])
        w.strings(wanted)
        return w.take()

    def hook(self, data: bytes, argument: str = "4", *, job: bytes = b"", **environ: str) -> Outcome:
        """Run the real executable on `data`, and on `job` once it has accepted, as Nix does; then end of file."""
        hook = subprocess.Popen(
            [self.program, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            env=self.environ() | environ,
        )
        with hook:
            assert hook.stdin is not None
            assert hook.stderr is not None
            lines: list[bytes] = []
            # A hook that is gone has said why.
            with suppress(BrokenPipeError):
                hook.stdin.write(data)
                hook.stdin.flush()
                while job and (line := hook.stderr.readline()):
                    lines.append(line)
                    if line.startswith(b"# "):
                        if line == b"# accept\n":
                            hook.stdin.write(job)
                        break
            _, rest = hook.communicate(timeout=60)
        assert self.held_slots() == []
        return Outcome(hook.returncode, (b"".join(lines) + rest).decode().splitlines())

    def start(self, data: bytes, **environ: str) -> subprocess.Popen[bytes]:
        """Start the executable and give it `data`; its standard input stays open."""
        hook = subprocess.Popen(
            [self.program, "4"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environ() | environ
        )
        assert hook.stdin is not None
        hook.stdin.write(data)
        hook.stdin.flush()
        return hook

    def environ(self) -> dict[str, str]:
        """Where the executable finds its broker, or that it needs none."""
        mode = {} if self.broker else {"NIX_FERRY_STANDALONE": "1"}
        places = {"NIX_STATE_DIR": str(self.hook_state), "NIX_CONF_DIR": str(self.conf_dir)}
        return {
            "PATH": f"{self.stock.directory}:{os.environ['PATH']}",
            "OPS": str(self._ops),
            "CONNECTIONS": str(self._connections),
            **places,
            **mode,
        }

    def asked(self) -> list[str]:
        """What machines were asked since the last call, in order."""
        asked = self._ops.read_text().split()
        self._ops.unlink()
        return asked

    def connections(self) -> int:
        """How often machines were connected to."""
        return len(self._connections.read_text().split())

    def build(self, *machines: str, drv_path: str = "", argument: str = "4", **settings: str) -> Outcome:
        """One whole conversation about one derivation, by default the store's."""
        return self.hook(self.preamble(machines, **settings) + self.request(drv_path), argument, job=self.job())

    def ask(self, *machines: str) -> Outcome:
        """The same conversation up to the request, for answers other than accept."""
        return self.hook(self.preamble(machines) + self.request())

    def configure(self, text: str) -> None:
        """Write ferry.toml."""
        (self.conf_dir / "ferry.toml").write_text(text)

    def take_slot(self, machine: str) -> IO[str]:
        """Keep the first slot of a machine, as another hook would, until the file is closed."""
        release = (2, 34)
        ((parsed,), _) = parse_machines(machine, default_system=SYSTEM, release=release, read_file=str)
        directory = self.store.state / "current-load"
        directory.mkdir(exist_ok=True)
        lock = (directory / f"{parsed.uri.lock_stem(release)}-0").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        return lock

    def held_slots(self) -> list[str]:
        held = []
        for file in (self.store.state / "current-load").glob("*"):
            with file.open() as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    held.append(file.name)
        return held

    def outputs_valid(self) -> bool:
        """Whether all outputs are registered, or none; anything between is a broken promise."""
        registered = set(self.store.outputs.values()) & self.store.valid()
        assert registered in (set(), set(self.store.outputs.values()))
        return bool(registered)


def _kill(pid: int) -> None:
    """Kill a process, whoever its parent is, and wait for its end."""
    process = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
        # Readable when it has ended.
        select.select([process], [], [])
    finally:
        os.close(process)
