"""A throwaway machine: a container with a Nix store, a home and, if asked, nix-daemon and sshd.

Its sshd listens on a free port of the loopback interface.  Tested by test_host.py.
"""

import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.lab.container import CommandError, Container, Output, wait_until

__all__ = ["HOST_KEY", "CommandError", "Host", "Output", "wait_until"]

BASE_SETTINGS = {
    "build-users-group": "",
    "sandbox": "false",
    "substituters": "",
    "experimental-features": "nix-command",
}
SOCKET = "/nix/var/nix/daemon-socket/socket"
HOST_KEY = "/etc/ssh/host_key"


def connects(family: int, address: str | tuple[str, int]) -> bool:
    """Whether somebody listens there."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(address) == 0


class Host(Container):
    """A machine named `name` on the root directory `lower` (which it never changes); a context manager.

    `settings` go into nix.conf on top of BASE_SETTINGS.  Without `start_daemon` its Nix is a single-user one.
    """

    def __init__(self, name: str, lower: str | Path, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(name, lower)
        self.settings = {**BASE_SETTINGS, **(settings or {})}
        self.hook: str | None = None
        self.standalone = False
        self.port = 0
        self._daemon: subprocess.Popen[str] | None = None
        self._sshd: subprocess.Popen[str] | None = None

    def start(self) -> Self:
        """Bring the machine up; about 0.1 s."""
        super().start()
        self.write_file("/etc/hostname", self.name + "\n")
        self._unlock_root()
        self.run(["rm", "-rf", "/etc/nix"])
        self.configure()
        return self

    def stop(self) -> None:
        """Kill the machine with all that runs in it.  Safe to call twice."""
        super().stop()
        self._daemon = self._sshd = None
        self.port = 0

    def environment(self) -> Mapping[str, str]:
        """Make Nix use the daemon if one runs, else the configured hook."""
        if self._daemon is not None:
            return {"NIX_REMOTE": "daemon"}
        mode = {"NIX_FERRY_STANDALONE": "1"} if self.standalone else {}
        return mode | ({"NIX_CONFIG": f"build-hook = {self.hook}"} if self.hook else {})

    def stop_broker(self) -> None:
        """Kill the broker that nix-ferry's hooks started, if there is one; its connections end with it.

        The one that its builds shared would do so by itself a moment later.
        """
        self.run(["pkill", "-KILL", "-f", "nix-ferry-broker"], check=False)
        self.run(["pkill", "-TERM", "-f", r"^ssh: .*/nix-ferry/ssh/.* \[mux\]"], check=False)

    def servers(self) -> Sequence["subprocess.Popen[str]"]:
        """Return nix-daemon and sshd."""
        return [server for server in (self._daemon, self._sshd) if server is not None]

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

    def start_daemon(self, env: Mapping[str, str] | None = None) -> None:
        """Start nix-daemon, with `env` in its environment; from now on `run` and `popen` make Nix commands use it."""
        self.path(SOCKET).unlink(missing_ok=True)
        self.path("/var/log").mkdir(parents=True, exist_ok=True)
        with self.path("/var/log/nix-daemon.log").open("ab") as log:
            self._daemon = self.popen(["nix-daemon"], env=env, stdout=log, stderr=log)
        wait_until(lambda: connects(socket.AF_UNIX, str(self.path(SOCKET))), f"nix-daemon of {self.name}")

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
        self.run(["rm", "-rf", "/etc/nix"])
        self.run(["sh", "-c", "find /nix /root -mindepth 1 -maxdepth 1 ! -name .ssh -exec rm -rf {} +"])
        self.configure()

    def nix_version(self) -> str:
        """Return the installed Nix's version, `2.8.0` say."""
        return self.run(["nix", "--version"]).stdout.split()[-1]

    def nix_release(self) -> tuple[int, ...]:
        """Return the installed Nix's version for comparisons, `(2, 8, 0)` say."""
        return tuple(int(part) for part in self.nix_version().split("."))

    def add_user(self, name: str) -> None:
        """Add an ordinary user, unless there is one of that name; settings of their own another test may have left."""
        if self.run(["id", name], check=False).returncode != 0:
            # Sshd refuses an account without any password.
            self.run(["useradd", "--create-home", "--password", "*", name])
        self.run(["rm", "-rf", f"/home/{name}/.config/nix"])

    # ssh

    def start_sshd(self, *options: str) -> None:
        """Listen for ssh on a free port (`port`); only keys given by `trust` get in, as any user.

        `options` are further lines of sshd_config, which count before ours.
        """
        if not self.path(HOST_KEY).exists():
            self.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", HOST_KEY])
        config = [
            *options,
            f"HostKey {HOST_KEY}",
            "AuthorizedKeysFile /etc/ssh/authorized_keys",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "UsePAM no",
        ]
        with socket.socket() as reserved:
            # As sshd does: it can then bind to the port that we keep everybody else from.
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind(("127.0.0.1", 0))
            self.port = reserved.getsockname()[1]
            lines = [*config, f"ListenAddress 127.0.0.1:{self.port}"]
            self.write_file("/etc/ssh/sshd_config", "\n".join(lines) + "\n")
            self.path("/run/sshd").mkdir(exist_ok=True)
            with self.path("/var/log/sshd.log").open("ab") as log:
                self._sshd = self.popen(["/usr/sbin/sshd", "-D", "-e"], stdout=log, stderr=log)
            wait_until(lambda: connects(socket.AF_INET, ("127.0.0.1", self.port)), f"sshd of {self.name}")

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

    def _unlock_root(self) -> None:
        """Sshd refuses an account whose password is locked by `!`, keys or not."""
        shadow = self.read_file("/etc/shadow").splitlines()
        unlocked = ["root:*:" + line.split(":", 2)[2] if line.startswith("root:!") else line for line in shadow]
        self.write_file("/etc/shadow", "\n".join(unlocked) + "\n", 0o640)
