"""Logging in to a machine as builds do: its host key, a key of our own, and that key's place there.

Everything goes through the user's own ssh with its whole configuration; only to copy the key may it ask for a password,
which it does itself, on the terminal.  Tested with a real sshd in tests/lab/test_add.py.
"""

import base64
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace

from hook.cli.probe.shell import MOST_SAID, SSH_FAILED, run
from hook.errors import ConfigurationError, FerryError, MachineError, Trouble
from hook.machines.builders import Machine
from hook.remote.diagnosis import diagnose
from hook.remote.hostkey import AUTHORITY, known_hosts_lines
from hook.remote.ssh import known_hosts_option, options_first, ssh_arguments

TIMEOUT_S = 120.0
"""For everything that a machine does without being asked for a password."""

NO_LOGIN = ("-oPreferredAuthentications=none", "-oPubkeyAuthentication=no", "-oControlPath=none")
"""Only the host key is looked at."""

KEEP_THE_KEY = (
    "-oStrictHostKeyChecking=accept-new",
    "-oGlobalKnownHostsFile=/dev/null",
    "-oHashKnownHosts=no",
    "-oUpdateHostKeys=no",
    "-oCheckHostIP=no",
)

ONLY_KNOWN = ("-v", "-oStrictHostKeyChecking=yes")
PRESENTED = re.compile(r"Server host key: \S+ (SHA256:\S+)")

APPEND = (
    "umask 077; mkdir -p ~/.ssh && f=~/.ssh/authorized_keys && "
    '{ [ -z "$(tail -c 1 $f 2>/dev/null)" ] || echo >> $f; } && cat >> $f && '
    "{ ! command -v restorecon >/dev/null 2>&1 || restorecon -F ~/.ssh $f; }"
)
"""For any shell of the Bourne kind; an old last line may lack its end, and SELinux wants its label."""


@dataclass(frozen=True, slots=True)
class HostKey:
    """What a machine shows to prove that it is itself."""

    kind: str
    blob: str

    @property
    def fingerprint(self) -> str:
        """As ssh shows it."""
        digest = hashlib.sha256(base64.b64decode(self.blob)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def is_meant_by(self, expected: str) -> bool:
        """Whether `expected` is its fingerprint, the key itself as OpenSSH writes it, or what a machine's line has."""
        words = expected.split()
        return expected.rstrip("=") in (self.fingerprint, self.fingerprint.removeprefix("SHA256:")) or (
            self.blob in words or expected == self.column or pinned_key(expected) == self
        )

    @property
    def column(self) -> str:
        """As the 8th column of a machine's line has it."""
        return base64.b64encode(f"{self.kind} {self.blob}".encode()).decode()


class Login:
    """One machine, to be logged in to as builds do; nothing is asked except by `copy_key`."""

    def __init__(self, machine: Machine, environ: Mapping[str, str], private_dir: str, connect_timeout_s: int) -> None:
        self.machine = machine
        self._environ = environ
        self._private_dir = private_dir
        self._connect_timeout_s = connect_timeout_s

    @property
    def name(self) -> str:
        """`[USER@]HOST`, for the user."""
        uri = self.machine.uri
        return f"{uri.user}@{uri.host}" if uri.user else uri.host

    def host_key(self) -> HostKey:
        """The key that the machine shows now, whether it is known or not.  MachineError if it cannot be reached."""
        with tempfile.TemporaryDirectory(prefix="nix-ferry-") as directory:
            file = os.path.join(directory, "known_hosts")
            done = self._run("true", options=(*NO_LOGIN, *KEEP_THE_KEY, known_hosts_option(file)))
            try:
                with open(file) as known:
                    _, kind, blob, *_ = known.read().split()
            except (OSError, ValueError):
                raise self._error(done, "see the host key of") from None
        return HostKey(kind, blob)

    def is_known(self, key: HostKey) -> bool:
        """Whether the user's ssh knows this key already.  MachineError if it knows another one."""
        done = self._run("true", options=(*NO_LOGIN, *ONLY_KNOWN))
        if "REMOTE HOST IDENTIFICATION HAS CHANGED" in done.stderr:
            raise MachineError(
                f"'{self.name}' shows another host key than the one in known_hosts: if that is meant to be, remove "
                f"the old one (ssh-keygen -R '{self.name.rpartition('@')[2]}')",
                Trouble.HOST_KEY,
            )
        return "Host key verification failed" not in done.stderr and key.fingerprint in PRESENTED.findall(done.stderr)

    def pin(self, key: HostKey) -> None:
        """From now on accept no other host key."""
        self.machine = replace(self.machine, public_host_key=key.column)

    def is_let_in(self) -> bool:
        """Whether it lets us in without a question.  MachineError if it is not for want of a key that it does not."""
        done = self._run("true")
        if done.returncode == 0:
            return True
        if done.returncode != SSH_FAILED and not done.stderr.strip():
            # A login shell that runs nothing says so on standard output, if at all.
            said = " ".join(done.stdout.split())[:MOST_SAID] or f"exit status {done.returncode}"
            raise MachineError(
                f"'{self.name}' lets us in, and then runs nothing: {said}; give that user a shell there "
                "('usermod -s /bin/sh'), whose profile does not end it"
            )
        error = self._error(done, "log in to")
        if error.trouble is Trouble.AUTHENTICATION:
            return False
        raise error

    def copy_key(self, public: str) -> None:
        """Add our key to those that the machine accepts; ssh asks for a password if it has to."""
        argv = [word for word in self._argv(()) if word != "-oBatchMode=yes"]
        command = [*argv, "--", f"sh -c '{APPEND}'"]
        done = subprocess.run(command, env=self._environ, input=public + "\n", text=True, errors="replace", check=False)
        if done.returncode != 0:
            raise MachineError(
                f"the key could not be copied to '{self.name}'; add this line to .ssh/authorized_keys there: {public}"
            )

    def run_script(self, script: str) -> str:
        """What a shell script prints there.  MachineError if it fails."""
        done = self._run("sh -s", script)
        if done.returncode != 0:
            raise self._error(done, "ask")
        return done.stdout

    def _run(self, command: str, script: str = "", options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        argv = [*self._argv(options), "--", command]
        try:
            return run(argv, {**self._environ, "SSH_ASKPASS_REQUIRE": "never"}, script, self.name, TIMEOUT_S)
        except OSError as error:
            raise FerryError(f"cannot run 'ssh': {error.strerror}") from None

    def _argv(self, options: tuple[str, ...]) -> list[str]:
        argv = ssh_arguments(self.machine, self._environ, self._private_dir, self._connect_timeout_s)
        return list(options_first(argv, options))

    def _error(self, done: subprocess.CompletedProcess[str], what: str) -> MachineError:
        found = diagnose(done.stderr, done.returncode)
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        advice = f" ({found.advice})" if found and found.advice else ""
        words = f"{found.trouble.words}: " if found else ""
        return MachineError(f"cannot {what} '{self.name}': {words}{said}{advice}", found.trouble if found else None)


def pinned_key(column: str | None) -> HostKey | None:
    """The key in the 8th column of a line; None if there is none that can be read."""
    try:
        _, kind, blob, *_ = known_hosts_lines(column or "")[0].removeprefix(f"{AUTHORITY} ").split()
    except (ConfigurationError, ValueError):
        return None
    return HostKey(kind, blob)


def make_key(path: str, comment: str) -> None:
    """Make a key pair without a passphrase.  FerryError if that cannot be done."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    _keygen("-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path)


def public_key(path: str) -> str:
    """The public half of the key at `path`.  FerryError if it has a passphrase, which nobody types for a build."""
    try:
        return _keygen("-y", "-P", "", "-f", path).strip()
    except FerryError as error:
        if "passphrase" in str(error):
            raise FerryError(f"the key '{path}' has a passphrase, and nobody is there to type it for a build") from None
        raise


def _keygen(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["ssh-keygen", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
        )
    except OSError as error:
        raise FerryError(f"cannot run 'ssh-keygen': {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        raise FerryError(f"'ssh-keygen' failed: {' '.join(error.stderr.split())}") from None
    return done.stdout
