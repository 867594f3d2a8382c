"""Processes with a file system of their own: an overlay on a root directory, in private namespaces.

A container starts in some 0.1 s and keeps everything it writes in a tmpfs inside its own mount namespace, so nothing of
it survives its first process (init.py).  It shares the network of the machine it runs on.  Knows nothing of Nix.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

INIT = Path(__file__).with_name("init.py")
NAMESPACES = ("--mount", "--pid", "--uts", "--ipc")
BASE_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
WRITE = 'mkdir -p "$(dirname "$1")" && rm -f "$1" && cat > "$1" && chmod "$2" "$1"'

Output = subprocess.CompletedProcess[str]


class CommandError(Exception):
    """A command in a container ended with a status nobody expected; the text has all it printed."""


GUARD_S = 60
"""When something is taken to hang: far more than it takes, however busy the machine is."""


IDLE_S = 5
"""In which whatever a build has started must have ended after it."""


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = GUARD_S) -> None:
    """Poll `condition`, for servers that cannot tell when they are ready.  TimeoutError names `what`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not after {timeout_s} s")
        time.sleep(0.005)


def _children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Container:
    """One called `name` on the root directory `lower`, which it never changes; a context manager."""

    namespaces: Sequence[str] = NAMESPACES

    def __init__(self, name: str, lower: str | Path) -> None:
        self.name = name
        self.lower = str(lower)
        self._init: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._children: list[subprocess.Popen[str]] = []

    # Life

    def start_command(self) -> list[str]:
        """Return what starts its first process, as a child of its own."""
        command = ["unshare", *self.namespaces, "--propagation", "private", "--fork", "--kill-child"]
        return [*command, sys.executable, "-I", str(INIT), self.lower, self.name]

    def start(self) -> Self:
        """Bring it up."""
        # The pipe is its life line: however we end, it closes, and init.py ends with it.
        self._init = subprocess.Popen(
            self.start_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self._init.stdout is not None
        assert self._init.stderr is not None
        if self._init.stdout.readline() != b"ready\n":
            reason = self._init.stderr.read().decode(errors="replace").strip()
            self.stop()
            needs = "this takes root and, where root is confined as in most containers, the right to mount"
            raise CommandError(f"host {self.name!r} on {self.lower!r} did not start ({needs}):\n{reason}")
        (self._pid,) = _children_of(self._init.pid)
        return self

    def stop(self) -> None:
        """Kill it with all that runs in it.  Safe to call twice."""
        if self._init is None:
            return
        for stream in (self._init.stdin, self._init.stdout, self._init.stderr):
            if stream is not None:
                stream.close()
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        self._init.wait()
        for child in self._children:
            child.wait()
            for pipe in (child.stdin, child.stdout, child.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self._children.clear()
        self._init = None
        self._pid = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    # Files

    def path(self, inside: str) -> Path:
        """Where the machine's file `inside` is seen from outside.  Absolute symlinks on the way would lead astray."""
        return Path(f"/proc/{self._pid}/root") / inside.lstrip("/")

    def write_file(self, inside: str, content: str | bytes, mode: int = 0o644) -> None:
        """Write a file, making its directories."""
        # From the inside, so that no symlink can lead to a file of the machine outside.
        text = content if isinstance(content, str) else content.decode(errors="surrogateescape")
        self.run(["sh", "-c", WRITE, "sh", inside, f"{mode:o}"], input=text)

    def read_file(self, inside: str) -> str:
        """Return a file's text."""
        return self.path(inside).read_text(errors="surrogateescape")

    # Commands

    def environment(self) -> Mapping[str, str]:
        """Return what every command finds in its environment besides the fixed part."""
        return {}

    def servers(self) -> Sequence["subprocess.Popen[str]"]:
        """Return the commands that are meant to stay."""
        return ()

    def command(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, user: str = "root", terminal: bool = False
    ) -> list[str]:
        """Return what to run out here to have `argv` run in there, in a session of its own.

        Its environment is a fixed one plus `environment()` and `env`, never the caller's; with `terminal`, standard
        input becomes the session's terminal.
        """
        home = "/root" if user == "root" else f"/home/{user}"
        environment = {**BASE_ENVIRONMENT, "HOME": home, "USER": user, **self.environment(), **(env or {})}
        session = ["setsid", "--ctty"] if terminal else ["setsid"]
        prefix = ["nsenter", "--target", str(self._pid), *self.namespaces, "--", *session]
        prefix += ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]
        if user != "root":
            prefix += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        return [*prefix, *argv]

    def popen(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        user: str = "root",
        stdin: int | IO[bytes] | None = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = subprocess.PIPE,
        stderr: int | IO[bytes] | None = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start a command as `command` says; it ends with the container at the latest."""
        child = subprocess.Popen(
            self.command(argv, env=env, user=user),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
            start_new_session=True,
        )
        self._children.append(child)
        return child

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        input: str = "",  # noqa: A002 - named as subprocess.run names it
        user: str = "root",
        check: bool = True,
        timeout: float = 120,
    ) -> Output:
        """Run a command to its end and return its status and output; with `check`, any status but 0 is an error."""
        child = self.popen(argv, env=env, user=user, stdin=subprocess.PIPE)
        try:
            stdout, stderr = child.communicate(input, timeout)
        finally:
            self.end(child)
            for pipe in (child.stdin, child.stdout, child.stderr):
                assert pipe is not None
                pipe.close()
        if check and child.returncode != 0:
            shown = f"{self.name}$ {' '.join(argv)}\nexit status {child.returncode}\n{stdout}{stderr}"
            raise CommandError(shown)
        return Output(argv, child.returncode, stdout, stderr)

    def processes(self, *, servers: bool = False) -> dict[int, str]:
        """Return what runs in it: process id, as seen from outside, → command.

        Leaves out the first process and its servers themselves unless `servers`.
        """
        known = {self._pid, *(pid for server in self.servers() for pid in _children_of(server.pid))}
        namespace = os.readlink(f"/proc/{self._pid}/ns/pid")
        found = {}
        for directory in Path("/proc").glob("[0-9]*"):
            # Processes come and go meanwhile.
            with contextlib.suppress(OSError):
                if os.readlink(directory / "ns/pid") == namespace:
                    command = (directory / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
                    found[int(directory.name)] = command.decode(errors="replace")
        # One that has ended, and nobody has waited for, has no command any more.
        return {pid: command for pid, command in found.items() if command and (servers or pid not in known)}

    def wait_idle(self, but: str = "(?!)") -> None:
        """Wait until nothing but its servers runs in it; TimeoutError tells what stayed.

        Commands that match the regular expression `but` may stay.
        """

        still: list[str] = []

        def idle() -> bool:
            still[:] = [command for command in self.processes().values() if not re.match(but, command)]
            return not still

        try:
            wait_until(idle, "", IDLE_S)
        except TimeoutError:
            shown = "\n".join(still)
            raise TimeoutError(f"still running on {self.name} after {IDLE_S} s:\n{shown}") from None

    def end(self, child: subprocess.Popen[str]) -> None:
        """Kill a command given by `popen` with its process group, unless it has ended."""

        def gone() -> bool:
            if child.poll() is not None:
                return True
            # Not nsenter, the child we know: its own child would become a zombie of the real machine's first process,
            # and the container could not end before that one takes notice.
            for command in _children_of(child.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(command, signal.SIGKILL)
            return False

        wait_until(gone, f"end of {child.args!r}")
        self._children.remove(child)
