"""Serve one shim over its connection: its greeting, its descriptors, and what it is told.

The same for a broker and for a process that serves one hook; the contract is in hook/broker/server.py.  Tested in
broker/test_server.py, and in test_shim_answers.py with the real shim.
"""

import array
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Self

from hook.front.caller import Caller, Word

HEADER = struct.Struct("<8sI")
MAGIC = b"nixferry"
FORMAT = "2"
"""Of the messages: counted up whenever they change."""

LENGTH = struct.Struct("<I")
MAX_GREETING_BYTES = 64 << 20
GREETING_TIMEOUT_S = 10.0

Serve = Callable[[Caller], int]
"""Serves one hook and returns its exit status."""


def receive_header(connection: socket.socket) -> tuple[bytes, int]:
    """What kind of message follows, and how long it is."""
    magic, length = HEADER.unpack(receive(connection, HEADER.size))
    return magic, length


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a shim says first; only if it is of our build or of none, `words` are what we expect there."""

    identity: str
    words: Sequence[str]

    @classmethod
    def receive(cls, connection: socket.socket, length: int) -> Self:
        """Read one of `length` bytes, whose header was read; ValueError if it is malformed."""
        if length > MAX_GREETING_BYTES:
            raise ValueError(f"its greeting has {length} bytes")
        identity, *words = [os.fsdecode(word) for word in receive(connection, length).split(b"\0")]
        return cls(identity, words[:-1])


def converse(connection: socket.socket, greeting: Greeting, serve: Serve, root: str | None) -> None:
    """Serve a hook whose root directory is `root`, None for ours; ValueError if it does not speak as we do."""
    if len(greeting.words) < 3 or greeting.words[0] != FORMAT:
        raise ValueError(f"its messages are not of format {FORMAT}")
    _, argument, parent, *entries = greeting.words
    parent_pid = int(parent)
    tell(connection, Word.READY)
    with descriptors(connection) as (input_fd, output_fd, build_log_fd):
        connection.settimeout(None)
        caller = Caller(
            input_fd=connection.fileno(),
            output_fd=output_fd,
            build_log_fd=build_log_fd,
            argument=argument,
            environ={name: value for name, _, value in (entry.partition("=") for entry in entries)},
            parent_pid=parent_pid,
            hangup_fd=connection.fileno(),
            rest_fd=input_fd,
            root=root,
            tell=lambda word, data: tell(connection, word, data),
        )
        status = serve(caller)
    # Not before Nix's pipes are closed here: whoever is told now may be the last one who holds them.
    if caller.successor is None:
        tell(connection, Word.STATUS, bytes([status & 0xFF]))
    else:
        tell(connection, caller.successor)


@contextmanager
def descriptors(connection: socket.socket) -> Iterator[tuple[int, int, int]]:
    """The descriptors of a shim that was answered: Nix's requests, the answers to Nix, and the log of a build."""
    fds = array.array("i")
    try:
        space = socket.CMSG_SPACE(3 * fds.itemsize)
        _, ancillary, flags, _ = connection.recvmsg(1, space, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content)
        if flags & socket.MSG_CTRUNC or len(fds) != 3:
            raise ValueError(f"it came with {len(fds)} descriptors or more")
        for index in (1, 2):
            fds[index] = _not_waiting(fds[index])
        yield fds[0], fds[1], fds[2]
    finally:
        # Nix regards the hook as finished when the last copy of its pipe is closed, and the shim must have that.
        for fd in fds:
            os.close(fd)


def _not_waiting(fd: int) -> int:
    """A descriptor for writing to the same pipe that does not wait while it is full, in place of `fd`; closes that.

    A session that waits is to look at its hook meanwhile.  The pipe is opened anew, since how `fd` waits is a matter of
    all processes that have it.  What is not a pipe, or not to be opened, is left as it is.
    """
    with suppress(OSError):
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            other = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.close(fd)
            return other
    return fd


def receive(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes; ValueError if fewer come."""
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ValueError("its greeting ends in the middle")
        data += piece
    return bytes(data)


def tell(connection: socket.socket, word: Word, data: bytes = b"") -> None:
    """Send a message."""
    # A hook that is gone is noticed by whoever waits for it next.
    with suppress(OSError):
        connection.sendall(word.value + LENGTH.pack(len(data)) + data)
