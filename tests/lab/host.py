"""A throwaway machine: an overlay on a root directory, with its own processes, store, home and, if asked, sshd.

A host costs about 0.1 s to start and keeps everything it writes in a tmpfs inside its own mount namespace, so nothing
of it survives its first process (init.py).  It shares the network of the machine it runs on: its sshd listens on a free
port of the loopback interface.  Tested by test_host.py.
"""

import contextlib
import os
import shutil
import signal
import socket
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
BASE_SETTINGS = {
    "build-users-group": "",
    "sandbox": "false",
    "substituters": "",
    "experimental-features": "nix-command",
}
SOCKET = "/nix/var/nix/daemon-socket/socket"
HOST_KEY = "/etc/ssh/host_key"

Output = subprocess.CompletedProcess[str]


class CommandError(Exception):
    """A command in a host ended with a status nobody expected; the text has all it printed."""


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 20) -> None:
    """Poll `condition`, for servers that cannot tell when they are ready.  TimeoutError names `what`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not after {timeout_s} s")
        time.sleep(0.005)


def _connects(family: int, address: str | tuple[str, int]) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(address) == 0


def _children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Host:
    """A machine named `name` on the root directory `lower` (which it never changes); a context manager.

    `settings` go into nix.conf on top of BASE_SETTINGS.  Without `start_daemon` its Nix is a single-user one.
    """

    def __init__(self, name: str, lower: str | Path, settings: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.lower = str(lower)
        self.settings = {**BASE_SETTINGS, **(settings or {})}
        self.hook: str | None = None
        self.port = 0
        self._init: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._children: list[subprocess.Popen[str]] = []
        self._daemon: subprocess.Popen[str] | None = None
        self._sshd: subprocess.Popen[str] | None = None

    # Life

    def start(self) -> Self:
        """Bring the machine up; about 0.1 s."""
        command = ["unshare", *NAMESPACES, "--propagation", "private", "--fork", "--kill-child"]
        command += [sys.executable, "-I", str(INIT), self.lower, self.name]
        # The pipe is the machine's life line: however we end, it closes, and init.py ends with it.
        self._init = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self._init.stdout is not None
        assert self._init.stderr is not None
        if self._init.stdout.readline() != b"ready\n":
            reason = self._init.stderr.read().decode(errors="replace").strip()
            self.stop()
            raise CommandError(f"host {self.name!r} on {self.lower!r} did not start:\n{reason}")
        (self._pid,) = _children_of(self._init.pid)
        self.write_file("/etc/hostname", self.name + "\n")
        self._unlock_root()
        shutil.rmtree(self.path("/etc/nix"), ignore_errors=True)
        self.configure()
        return self

    def stop(self) -> None:
        """Kill the machine with all that runs in it.  Safe to call twice."""
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
        self._init = self._daemon = self._sshd = None
        self._pid = self.port = 0

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
        target = self.path(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        target.chmod(mode)

    def read_file(self, inside: str) -> str:
        """Return a file's text."""
        return self.path(inside).read_text(errors="surrogateescape")

    # Commands

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
        """Start a command in the machine, in a session of its own; it ends with the machine at the latest.

        The environment is a fixed one plus `env`, never the caller's.  A client of a running daemon is told to use it.
        """
        home = "/root" if user == "root" else f"/home/{user}"
        environment = {**BASE_ENVIRONMENT, "HOME": home, "USER": user, **self._nix_environment(), **(env or {})}
        prefix = ["nsenter", "--target", str(self._pid), *NAMESPACES]
        prefix += ["--", "setsid", "env", "-i", *(f"{name}={value}" for name, value in environment.items())]
        if user != "root":
            prefix += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        child = subprocess.Popen(
            [*prefix, *argv],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
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
        """Return what runs in the machine: process id, as seen from outside, → command.

        Leaves out the first process, nix-daemon and sshd themselves unless `servers`.
        """
        known = {self._pid}
        for server in (self._daemon, self._sshd):
            known.update(_children_of(server.pid) if server is not None else ())
        namespace = os.readlink(f"/proc/{self._pid}/ns/pid")
        found = {}
        for directory in Path("/proc").glob("[0-9]*"):
            # Processes come and go meanwhile, and a zombie has no namespace left.
            with contextlib.suppress(OSError):
                if os.readlink(directory / "ns/pid") == namespace:
                    command = (directory / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
                    found[int(directory.name)] = command.decode(errors="replace")
        return {pid: command for pid, command in found.items() if servers or pid not in known}

    def wait_idle(self) -> None:
        """Wait until nothing but its servers runs in the machine; TimeoutError tells what stayed."""
        try:
            wait_until(lambda: not self.processes(), "", timeout_s=5)
        except TimeoutError:
            still = "\n".join(self.processes().values())
            raise TimeoutError(f"still running on {self.name} after 5 s:\n{still}") from None

    def end(self, child: subprocess.Popen[str]) -> None:
        """Kill a command given by `popen` with its process group, unless it has ended."""

        def gone() -> bool:
            if child.poll() is not None:
                return True
            # Not nsenter, the child we know: its own child would become a zombie of the machine's first process, and
            # the host could not end before that one takes notice.
            for command in _children_of(child.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(command, signal.SIGKILL)
            return False

        wait_until(gone, f"end of {child.args!r}")
        self._children.remove(child)

    # Nix

    def configure(self, *, hook: str | None = None, **settings: str) -> None:
        """Write nix.conf: the host's own settings, then the given ones (`_` for `-`); restart a running daemon.

        `hook` is the build hook's path, None for the stock one.  It goes into the environment, which every Nix reads,
        because Nix 2.25 to 2.33 ignore it in nix.conf; to have it there, give `build_hook` among the settings.
        """
        self.hook = hook
        lines = {**self.settings, **{name.replace("_", "-"): value for name, value in settings.items()}}
        self.write_file("/etc/nix/nix.conf", "".join(f"{name} = {value}\n" for name, value in lines.items()))
        if self._daemon is not None:
            self.stop_daemon()
            self.start_daemon()

    def start_daemon(self) -> None:
        """Start nix-daemon; from now on `run` and `popen` make Nix commands use it."""
        self.path(SOCKET).unlink(missing_ok=True)
        self.path("/var/log").mkdir(parents=True, exist_ok=True)
        with self.path("/var/log/nix-daemon.log").open("ab") as log:
            self._daemon = self.popen(["nix-daemon"], stdout=log, stderr=log)
        wait_until(lambda: _connects(socket.AF_UNIX, str(self.path(SOCKET))), f"nix-daemon of {self.name}")

    def stop_daemon(self) -> None:
        """Stop nix-daemon with everything it runs in its session."""
        if self._daemon is not None:
            self.end(self._daemon)
            self._daemon = None

    def reset_store(self) -> None:
        """Forget every store path; a running daemon is restarted."""
        running = self._daemon is not None
        self.stop_daemon()
        self.run(["sh", "-c", "rm -rf /nix/* /root/.cache"])
        if running:
            self.start_daemon()

    def reset(self) -> None:
        """Forget store, configuration and root's home except for ssh; no daemon runs afterwards."""
        self.stop_daemon()
        self.run(["sh", "-c", "find /nix /root -mindepth 1 -maxdepth 1 ! -name .ssh -exec rm -rf {} +"])
        self.configure()

    def nix_version(self) -> str:
        """Return the installed Nix's version, `2.8.0` say."""
        return self.run(["nix", "--version"]).stdout.split()[-1]

    def nix_release(self) -> tuple[int, ...]:
        """Return the installed Nix's version for comparisons, `(2, 8, 0)` say."""
        return tuple(int(part) for part in self.nix_version().split("."))

    def add_user(self, name: str) -> None:
        """Add an ordinary user, unless there is one of that name."""
        if self.run(["id", name], check=False).returncode != 0:
            # Sshd refuses an account without any password.
            self.run(["useradd", "--create-home", "--password", "*", name])

    # ssh

    def start_sshd(self, *options: str) -> None:
        """Listen for ssh on a free port (`port`); only keys given by `trust` get in, as any user.

        `options` are further lines of sshd_config.
        """
        if not self.path(HOST_KEY).exists():
            self.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", HOST_KEY])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = [
            f"HostKey {HOST_KEY}",
            f"ListenAddress 127.0.0.1:{self.port}",
            "AuthorizedKeysFile /etc/ssh/authorized_keys",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "UsePAM no",
            *options,
        ]
        self.write_file("/etc/ssh/sshd_config", "\n".join(config) + "\n")
        self.path("/run/sshd").mkdir(exist_ok=True)
        with self.path("/var/log/sshd.log").open("ab") as log:
            self._sshd = self.popen(["/usr/sbin/sshd", "-D", "-e"], stdout=log, stderr=log)
        wait_until(lambda: _connects(socket.AF_INET, ("127.0.0.1", self.port)), f"sshd of {self.name}")

    def stop_sshd(self) -> None:
        """Stop listening; connections that are up stay up."""
        if self._sshd is not None:
            self.end(self._sshd)
            self._sshd = None

    def trust(self, builder: "Host", alias: str | None = None) -> None:
        """Let this machine's root log in to `builder` with `ssh [USER@]ALIAS` (by default its name), keys and all."""
        alias = alias or builder.name
        key = "/root/.ssh/id_ed25519"
        if not self.path(key).exists():
            self.path("/root/.ssh").mkdir(mode=0o700, exist_ok=True)
            self.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", key])
        known_hosts = f"/root/.ssh/known_hosts.{alias}"
        host_key = builder.read_file(HOST_KEY + ".pub")
        self.write_file(known_hosts, f"[127.0.0.1]:{builder.port} {host_key}")
        block = [f"Host {alias}", "HostName 127.0.0.1", f"Port {builder.port}", f"IdentityFile {key}"]
        block += ["StrictHostKeyChecking yes", f"UserKnownHostsFile {known_hosts}"]
        self.write_file(f"/root/.ssh/hosts/{alias}", "\n  ".join(block) + "\n", 0o600)
        self.write_file("/root/.ssh/config", "Include hosts/*\n", 0o600)
        accepted = builder.path("/etc/ssh/authorized_keys")
        keys = accepted.read_text() if accepted.exists() else ""
        public = self.read_file(key + ".pub")
        if public not in keys:
            builder.write_file("/etc/ssh/authorized_keys", keys + public)

    # Details

    def _nix_environment(self) -> dict[str, str]:
        if self._daemon is not None:
            return {"NIX_REMOTE": "daemon"}
        return {"NIX_CONFIG": f"build-hook = {self.hook}"} if self.hook else {}

    def _unlock_root(self) -> None:
        """Sshd refuses an account whose password is locked by `!`, keys or not."""
        shadow = self.read_file("/etc/shadow").splitlines()
        unlocked = ["root:*:" + line.split(":", 2)[2] if line.startswith("root:!") else line for line in shadow]
        self.write_file("/etc/shadow", "\n".join(unlocked) + "\n", 0o640)
