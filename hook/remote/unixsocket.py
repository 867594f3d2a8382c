"""Reach a machine by the socket of its daemon, as Nix's own commands do; tested in test_unixsocket.py."""

import socket
import struct
from dataclasses import dataclass

from hook.errors import MachineError
from hook.protocol.options import Options
from hook.remote.child import time_to_get_ready
from hook.remote.stream import Stream

CONNECT_S = 5
"""How long a daemon may take to accept a connection: with those of several builds its queue is full for a moment."""


@dataclass(frozen=True)
class UnixSocket:
    """The socket at `path`, whose daemon is sent `options`, or `humble_options` if it does not trust us."""

    path: str
    options: Options
    humble_options: Options

    has_settings = True

    def connect(self, name: str) -> "SocketConnection":
        """Connect to the machine shown to the user as `name`; MachineError if nobody listens."""
        return SocketConnection(self.path, name)


class SocketConnection:
    """A connected socket and its stream."""

    def __init__(self, path: str, name: str) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                # What `settimeout` does would turn a full queue into an error.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", CONNECT_S, 0))
                connection.connect(path)
                with connection.dup() as other:
                    self.stream = Stream(connection.detach(), other.detach(), None, name)
        except OSError as error:
            raise MachineError(f"cannot connect to socket at '{path}': {error.strerror or error}") from None
        self.stream.watch = time_to_get_ready()

    def explain(self, error: MachineError) -> MachineError:
        """`error` itself: there is no child that could have said more."""
        return error

    def close(self) -> None:
        """End the connection."""
        self.stream.close()
