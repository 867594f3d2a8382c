"""Turn a machine into a connected Stream: the user's own ssh, or a local command.

Nothing here speaks a Nix protocol.  ssh is the one found in PATH with the user's whole configuration; it is never given
a way to ask a question.  Source: ssh.md; tested with a scripted ssh in test_transport.py and a real one in the lab.
"""

import base64
import binascii
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from hook.errors import ConfigurationError, ConnectionLost, MachineError, ProtocolError
from hook.machines import Machine
from hook.stream import Stream

HANDSHAKE_SILENCE_S = 30.0
"""How long a machine may keep silent between the start of ssh and the end of the handshake."""

KEEP_ALIVE = ("-oServerAliveInterval=15", "-oServerAliveCountMax=4")
"""A link that is dead for a minute ends the session, also while a silent build runs."""

STDERR_SETTLE_S = 1.0

HINTS = (
    ("Host key verification failed", "add the machine's host key to known_hosts, or to the last column of `builders`"),
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "the machine's host key differs from the known one"),
    ("Permission denied", "the machine refused the key; ssh runs as the user of the Nix daemon, without any questions"),
    ("Could not resolve hostname", "no such host name"),
    (
        "command not found",
        "Nix is not installed there, or not in PATH of a non-interactive login; see `remote-program`",
    ),
    ("No such file or directory", "is Nix installed there?  See `remote-program`"),
)
"""What ssh or the remote shell says, and what its reader can do about it."""


@dataclass(frozen=True, slots=True)
class Command:
    """A program whose standard input and output are the connection."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]


class Connection:
    """A running transport: its stream and the child behind it."""

    def __init__(self, command: Command, name: str) -> None:
        try:
            self._child = subprocess.Popen(
                command.argv,
                env=command.environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        except OSError as error:
            raise MachineError(f"cannot run '{command.argv[0]}': {error.strerror}") from None
        pipes = (self._child.stdout, self._child.stdin, self._child.stderr)
        read_fd, write_fd, stderr_fd = (os.dup(pipe.fileno()) for pipe in pipes if pipe is not None)
        for pipe in pipes:
            if pipe is not None:
                pipe.close()
        self.stream = Stream(read_fd, write_fd, stderr_fd, name)
        self.stream.silence_s = HANDSHAKE_SILENCE_S

    def explain(self, error: MachineError) -> MachineError:
        """`error` with what the child had to say about it."""
        if not isinstance(error, ConnectionLost | ProtocolError):
            return error
        said = self.stream.stderr_text(STDERR_SETTLE_S)
        if not said:
            return error
        hint = next((f" ({advice})" for pattern, advice in HINTS if pattern in said), "")
        return type(error)(f"{error}: {said}{hint}")

    def close(self) -> None:
        """End the connection and the child; nothing outlives this call."""
        self.stream.close()
        self._child.kill()
        self._child.wait()


REMOTE_PROGRAMS = {"ssh-ng": ("nix-daemon", "--stdio"), "ssh": ("nix-store", "--serve", "--write")}
"""By scheme: the default of `remote-program`, and its arguments."""


def command_for(machine: Machine, environ: Mapping[str, str], private_dir: str) -> Command:
    """The command that connects to the Nix of `machine`, whose scheme must be in REMOTE_PROGRAMS.

    `private_dir` keeps the known-hosts file of a machine whose line pins a host key.
    """
    uri = machine.uri
    program, *arguments = REMOTE_PROGRAMS[uri.scheme]
    words = uri.parameter("remote-program", program).split()
    if not words:
        raise ConfigurationError("parameter 'remote-program' is empty")
    remote = [*words, *arguments]
    if store := uri.parameter("remote-store", ""):
        remote += ["--store", store]
    if uri.is_plain_localhost:
        return Command(tuple(remote), environ)
    return Command((*ssh_arguments(machine, environ, private_dir), "--", *remote), _ssh_environment(environ))


def ssh_arguments(machine: Machine, environ: Mapping[str, str], private_dir: str) -> list[str]:
    """The command line of ssh up to the remote command.

    ssh takes the first value it sees of an option: NIX_SSHOPTS comes before ours and wins.
    """
    uri = machine.uri
    argv = ["ssh", f"{uri.user}@{uri.host}" if uri.user else uri.host, "-x"]
    if options := environ.get("NIX_SSHOPTS"):
        import shlex

        try:
            argv += shlex.split(options)
        except ValueError as error:
            raise ConfigurationError(f"NIX_SSHOPTS cannot be split into words: {error}") from None
    argv += ["-T", "-oBatchMode=yes", *KEEP_ALIVE]
    if key := machine.ssh_key or uri.parameter("ssh-key", ""):
        argv.append(f"-i{key}")
    if public := machine.public_host_key or uri.parameter("base64-ssh-public-host-key", ""):
        argv.append(f'-oUserKnownHostsFile="{_known_hosts_file(public, private_dir)}"')
    if uri.flag("compress", False):
        argv.append("-C")
    if uri.port is not None:
        argv.append(f"-p{uri.port}")
    return argv


def _ssh_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment, less everything through which ssh could ask a question."""
    kept = {name: value for name, value in environ.items() if name not in ("DISPLAY", "SSH_ASKPASS")}
    return kept | {"SSH_ASKPASS_REQUIRE": "never", "SHELL": "/bin/sh"}


def _known_hosts_file(public: str, private_dir: str) -> str:
    """A known-hosts file with just this key, named by its content and therefore never rewritten.

    The key is valid for every name: it belongs to one machine, and ssh may look it up under an alias, an address or
    a non-standard port.
    """
    try:
        keys = base64.b64decode(public, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ConfigurationError("the public host key is not base64 text") from None
    import hashlib

    content = "".join(f"* {line}\n" for line in keys.splitlines() if line.strip())
    directory = os.path.join(private_dir, "known-hosts")
    path = os.path.join(directory, hashlib.sha256(content.encode()).hexdigest()[:32])
    if not os.path.exists(path):
        os.makedirs(directory, mode=0o700, exist_ok=True)
        partial = f"{path}.{os.getpid()}"
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o400)
        with os.fdopen(fd, "w") as file:
            file.write(content)
        os.rename(partial, path)
    return path
