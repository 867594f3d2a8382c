"""A connection to systemd: have units started, and know when they have.

Speaks D-Bus with the manager itself, on its private socket: commands that could do it may be missing, or hang.
Source: org.freedesktop.systemd1(5).  Tested in test_systemd.py and, with a real systemd, in tests/environments.
"""

import os
import socket
import struct
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

from jeepney import DBusAddress, DBusErrorResponse, HeaderFields, Message, Parser, Properties, new_method_call
from jeepney.auth import AuthenticationError
from jeepney.io.blocking import prep_socket
from jeepney.wrappers import unwrap_msg

OBJECT = "/org/freedesktop/systemd1"
NAME = "org.freedesktop.systemd1"
CONNECT_S = 2.0
MOST_BYTES = 1 << 20
"""Of one message."""


class ManagerError(OSError):
    """It does not answer in time, refuses, or makes no sense."""


class Manager:
    """A connection to the systemd whose private socket is at `address`."""

    def __init__(self, address: str) -> None:
        self._parser = Parser()
        self._serials = count(1)
        self._results: dict[str, str] = {}
        """Of jobs that are over: how they ended."""
        self._deadline = 0.0
        try:
            self._socket: socket.socket = prep_socket(address, timeout=CONNECT_S)
        except (OSError, AuthenticationError) as error:
            raise ManagerError(str(error)) from None
        try:
            self._check_peer()
        except OSError:
            self._socket.close()
            raise

    def commands(self, unit: str, timeout_s: float) -> list[str]:
        """The programs that the service at this path starts."""
        service = DBusAddress(unit, NAME, f"{NAME}.Service")
        try:
            ((_, commands),) = self._call(Properties(service).get("ExecStart"), timeout_s)
            return [command[0] for command in commands]
        except (LookupError, TypeError, ValueError):
            raise ManagerError("its answer makes no sense") from None

    def _call(self, message: Message, timeout_s: float) -> tuple[Any, ...]:
        """What comes back."""
        self._deadline = time.monotonic() + timeout_s
        serial = next(self._serials)
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(message.serialise(serial))
            for answer in self._messages():
                if answer.header.fields.get(HeaderFields.reply_serial) == serial:
                    body: tuple[Any, ...] = unwrap_msg(answer)
                    return body
        except (OSError, DBusErrorResponse) as error:
            raise ManagerError(str(error)) from None
        raise ManagerError("it has hung up")

    def run(self, member: str, signature: str, body: tuple[object, ...], timeout_s: float) -> None:
        """Have it start a unit, and wait until it has."""
        manager = DBusAddress(OBJECT, NAME, f"{NAME}.Manager")
        answer = self._call(new_method_call(manager, member, signature, body), timeout_s)
        try:
            (job,) = answer
            while job not in self._results:
                next(self._messages())
        except OSError as error:
            raise ManagerError(str(error)) from None
        except ValueError:
            raise ManagerError(f"{member}: its answer makes no sense") from None
        if self._results[job] != "done":
            raise ManagerError(f"{member}: {self._results[job]}")

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _check_peer(self) -> None:
        """Process numbers are ours to give only where it sees the same ones."""
        credentials = struct.Struct("3i")
        pid, uid, _ = credentials.unpack(
            self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
        )
        if uid != os.geteuid() or pid <= 0 or (uid == 0 and pid != 1):
            raise ManagerError("it is not the manager of this system")

    def _messages(self) -> Iterator[Message]:
        """What it says, one after the other; OSError if nothing comes in time."""
        while True:
            try:
                message = self._parser.get_next_message()
                wanted = self._parser.bytes_desired()
                if message is not None and message.header.fields.get(HeaderFields.member) == "JobRemoved":
                    _, job, _, result = message.body
                    self._results[job] = result
            except (struct.error, LookupError, TypeError, ValueError):
                raise ManagerError("its message makes no sense") from None
            if message is not None:
                yield message
            elif wanted > MOST_BYTES:
                raise ManagerError("its message is too long")
            else:
                self._parser.add_data(self._receive())

    def _receive(self) -> bytes:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("it takes too long")
        self._socket.settimeout(left_s)
        data = self._socket.recv(1 << 16)
        if not data:
            raise ManagerError("it has hung up")
        return data
