"""A child process whose standard input and output are a connection, and what it says when that fails.

It is ssh, or a program of Nix that runs here.  Tested with a script in ssh's place in tests/remote/test_child.py.
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hook.errors import ConnectionLost, MachineError, ProtocolError, Trouble
from hook.remote.diagnosis import diagnose
from hook.remote.stream import Stream
from hook.remote.watch import Deadline

if TYPE_CHECKING:
    from hook.protocol.options import Options

HANDSHAKE_S = 30.0
"""What a machine has to get ready, which is all that it is asked before a build: Nix does nothing else meanwhile."""


PIPE_BYTES = 1 << 20
"""With the usual 64 KiB, ssh and we would take turns instead of working at the same time."""

SETTLE_S = 1.0
"""How long a child whose output has ended may take to say why, and to exit."""


LAST_WORDS_S = 2.0
"""How long a build that is given up may take to end, and its log with it."""

GRACE_S = 0.5
"""How long a child may take to clean up after itself."""


SSH_FAILED = 255
"""The exit status of ssh if it has not run what it should; otherwise it is that of the program there."""


VERBOSE = ("debug1: ", "debug2: ", "debug3: ", "OpenSSH_", "Authenticated to ", "Transferred: ", "Bytes per second: ")
"""How lines of ssh begin that it prints with `-v` only."""

LINES_SHOWN = 2
"""Of what ssh prints, banners and advice included, the last lines tell what went wrong."""


def time_to_get_ready() -> Deadline:
    """The `watch` of a connection that begins now, until its machine is ready."""
    return Deadline(HANDSHAKE_S)


@dataclass(frozen=True, slots=True)
class Command:
    """A program whose standard input and output are the connection; `program` if it is not found as `argv[0]`.

    `has_settings` if it already has those that Nix sent us, or is sent what is left of them as `options`; `has_aes` if
    the processor there has instructions for AES.
    """

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    program: str | None = None
    has_settings: bool = False
    has_aes: bool = False
    options: "Options | None" = None

    def connect(self, name: str) -> "Connection":
        """Start it, to connect to the machine shown to the user as `name`."""
        return Connection(self, name)


class Connection:
    """A running transport: its stream and the child behind it."""

    def __init__(self, command: Command, name: str) -> None:
        try:
            self._child = subprocess.Popen(
                command.argv,
                executable=command.program,
                env=command.environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                pipesize=PIPE_BYTES,
            )
        except OSError as error:
            raise MachineError(f"cannot run '{command.argv[0]}': {error.strerror}") from None
        try:
            read_fd, write_fd, stderr_fd = _own_pipes(self._child)
        except OSError as error:
            self._child.kill()
            self._child.wait()
            raise MachineError(f"cannot run '{command.argv[0]}': {error.strerror}") from None
        self.stream = Stream(read_fd, write_fd, stderr_fd, name)
        self.stream.watch = time_to_get_ready()

    def explain(self, error: MachineError) -> MachineError:
        """`error` with what the child had to say about it."""
        if not isinstance(error, ConnectionLost | ProtocolError):
            return error
        # What speaks another protocol or keeps silent is still there, and has no more to say.
        ended = error.trouble is Trouble.LOST
        settle_s = SETTLE_S if ended else 0
        lines = [line for line in self.stream.stderr_lines(settle_s) if not line.startswith(VERBOSE)]
        status = self._status(settle_s)
        found = diagnose("\n".join(lines), status)
        what, trouble = (found.trouble.words, found.trouble) if ended and found else (str(error), error.trouble)
        # Of a program there that says nothing; ssh has words for its own troubles, and a banner tells nothing.
        told = ended and status is not None and not (lines and (found or status in (0, SSH_FAILED)))
        how = f", exit status {status}" if told else ""
        said = ": " + "; ".join(lines[-LINES_SHOWN:]) if lines else ""
        return type(error)(f"{what}{how}{said}", trouble, found.advice if found else "")

    def _status(self, settle_s: float) -> int | None:
        """The child's exit status; None if it runs for longer than `settle_s`."""
        try:
            return self._child.wait(settle_s)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """End the connection and the child; nothing outlives this call."""
        self.stream.hang_up()
        self.stream.drop_log(LAST_WORDS_S)
        self.stream.close()
        # Asked politely, ssh also ends its ProxyCommand.
        self._child.terminate()
        try:
            self._child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def _own_pipes(child: subprocess.Popen[bytes]) -> list[int]:
    """Copies of the child's output, input and standard error, in place of the objects that would close them."""
    fds: list[int] = []
    pipes = [pipe for pipe in (child.stdout, child.stdin, child.stderr) if pipe is not None]
    try:
        fds.extend(os.dup(pipe.fileno()) for pipe in pipes)
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    finally:
        for pipe in pipes:
            pipe.close()
    return fds
