"""Where systemd rules: a unit of its own for the broker, so that no end of another unit or of a session is its own.

The service that `nix-ferry install` writes, for whoever stands where the first process does; elsewhere systemd starts
nothing, and the broker stays where it is and asks for a scope.  That goes for a user's broker, too, with that user's
manager.  Every question is bounded in time, and without an answer the broker is what it would be without systemd.

Speaks D-Bus with the manager itself, on its private socket: commands that could do it may be missing, or hang.
Source: D-Bus specification 0.43, "Message Protocol" and "Authentication Protocol"; org.freedesktop.systemd1(5).
Tested in test_unit.py and, with a real systemd, in tests/environments.
"""

import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress

from hook.standing import socket_path, standing_of

SERVICE = "nix-ferry-broker.service"
DIRECTORY = "/nix/var/nix/nix-ferry"
"""Where the service's broker listens."""

START_S = 5.0
SCOPE_S = 2.0
MANAGER = "/org/freedesktop/systemd1"
UNIT = f"{MANAGER}/unit/nix_2dferry_2dbroker_2eservice"
INTERFACE = "org.freedesktop.systemd1"

CALL, REPLY, SIGNAL = 1, 2, 4
PATH_FIELD, INTERFACE_FIELD, MEMBER_FIELD, REPLY_SERIAL_FIELD, SIGNATURE_FIELD = 1, 2, 3, 5, 8
MAX_MESSAGE_BYTES = 1 << 20


class ManagerError(Exception):
    """It cannot be reached, does not answer in time, or refuses."""


def has_started(directory: str, standing: str) -> bool:
    """Whether a broker for those who stand at `standing` listens in `directory` as a service.

    If there can be none, this process has left the unit of whoever started it, as far as that is possible.
    """
    address = "/run/systemd/private" if os.geteuid() == 0 else f"/run/user/{os.geteuid()}/systemd/private"
    try:
        with closing(Manager(address)) as manager:
            if directory == DIRECTORY and standing_of(1) == standing and _start(manager, directory, standing):
                return True
            _enter_scope(manager)
    except (ManagerError, OSError):
        pass
    return False


def service(program: str) -> str:
    """The unit, as a file."""
    return f"""\
[Unit]
Description=Broker of nix-ferry, which does the work of Nix's build hooks
Documentation=man:nix-ferry-hook(8)

# Hooks start it, and it ends when nothing has been built for a while.  Nothing is taken from it here: what it may not
# see or do, no build hook could, and hooks would find that it does not stand where they do, and start another one.
[Service]
Type=notify
ExecStart={program} {DIRECTORY}
Restart=on-failure
OOMPolicy=continue
TasksMax=infinity
"""


def say_ready() -> None:
    """Tell systemd, if it has started this process."""
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifying:
        notifying.sendto(b"READY=1", b"\0" + os.fsencode(address[1:]) if address[0] == "@" else os.fsencode(address))


def _start(manager: "Manager", directory: str, standing: str) -> bool:
    """Have the service started, unless it is another installation's."""
    wanted = Body().string(f"{INTERFACE}.Service").string("ExecStart")
    found = manager.call(UNIT, "org.freedesktop.DBus.Properties", "Get", "ss", wanted, SCOPE_S)
    if os.fsencode(os.path.realpath(sys.argv[0])) + b"\0" not in found:
        return False
    with suppress(ManagerError):
        manager.run("StartUnit", "ss", Body().string(SERVICE).string("replace"), START_S)
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(socket_path(directory, standing)) == 0


def _enter_scope(manager: "Manager") -> None:
    name = f"nix-ferry-broker-{os.getpid()}.scope"
    body = Body().string(name).string("fail")
    with body.array(8):
        body.struct().string("Description").variant("s").string("Broker of nix-ferry")
        body.struct().string("CollectMode").variant("s").string("inactive-or-failed")
        body.struct().string("PIDs").variant("au")
        with body.array(4):
            body.number(os.getpid())
    with body.array(8):
        pass
    manager.run("StartTransientUnit", "ssa(sv)a(sa(sv))", body, SCOPE_S)


class Body:
    """The arguments of a call; each method appends one value in its wire form, aligned as that has to be."""

    def __init__(self) -> None:
        self.data = bytearray()

    def number(self, value: int) -> "Body":
        """A u32."""
        self._align(4)
        self.data += struct.pack("<I", value)
        return self

    def string(self, text: str) -> "Body":
        """Text, or the path of an object."""
        value = os.fsencode(text)
        self.number(len(value))
        self.data += value + b"\0"
        return self

    def variant(self, signature: str) -> "Body":
        """The head of a value that says what it is."""
        self.data += bytes([len(signature)]) + signature.encode() + b"\0"
        return self

    def struct(self) -> "Body":
        """The head of several values that belong together."""
        self._align(8)
        return self

    def array(self, alignment: int) -> "_Array":
        """For the block in which its elements, which are aligned to so many bytes, are appended."""
        return _Array(self, alignment)

    def _align(self, size: int) -> None:
        self.data += bytes(-len(self.data) % size)


class _Array:
    def __init__(self, body: Body, alignment: int) -> None:
        self._body = body
        body.number(0)
        self._length_at = len(body.data) - 4
        body._align(alignment)
        self._start = len(body.data)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        struct.pack_into("<I", self._body.data, self._length_at, len(self._body.data) - self._start)


class Manager:
    """A connection to the systemd whose private socket is at `address`."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._deadline = time.monotonic() + SCOPE_S
        self._data = b""
        self._serial = 0
        self._removed: dict[str, str] = {}
        """Of jobs that are over: how they ended."""
        try:
            self._socket.settimeout(SCOPE_S)
            self._socket.connect(address)
            self._check_peer()
            self._socket.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\nBEGIN\r\n")
            while b"\r\n" not in self._data:
                self._receive_more()
            said, _, self._data = self._data.partition(b"\r\n")
            if not said.startswith(b"OK "):
                raise ManagerError(f"it says {said!r}")
        except (OSError, ManagerError) as error:
            self._socket.close()
            raise ManagerError(str(error)) from None

    def call(self, path: str, interface: str, member: str, signature: str, body: Body, timeout_s: float) -> bytes:
        """What comes back."""
        self._deadline = time.monotonic() + timeout_s
        self._serial += 1
        try:
            self._socket.sendall(_message(self._serial, path, interface, member, signature, body))
            for kind, fields, answer in self._messages():
                if fields.get(REPLY_SERIAL_FIELD) == self._serial:
                    if kind != REPLY:
                        raise ManagerError(f"it refuses {member}: {answer!r}")
                    return answer
        except OSError as error:
            raise ManagerError(str(error)) from None
        raise ManagerError("it has hung up")

    def run(self, member: str, signature: str, body: Body, timeout_s: float) -> None:
        """Have it start a unit, and wait until it has."""
        answer = self.call(MANAGER, f"{INTERFACE}.Manager", member, signature, body, timeout_s)
        try:
            job, _ = _string(answer, 0)
        except struct.error:
            raise ManagerError(f"{member}: its answer makes no sense") from None
        if job not in self._removed:
            try:
                for _ in self._messages():
                    if job in self._removed:
                        break
            except OSError as error:
                raise ManagerError(str(error)) from None
        if self._removed[job] != "done":
            raise ManagerError(f"{member}: {self._removed[job]}")

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

    def _messages(self) -> Iterator[tuple[int, dict[int, object], bytes]]:
        """What it says: kind, header fields and body; OSError if nothing comes in time."""
        while True:
            order, kind, length, fields_length = _head(self._receive(16))
            if length > MAX_MESSAGE_BYTES or fields_length > MAX_MESSAGE_BYTES:
                raise ManagerError("its message is too long")
            head, body = self._receive(fields_length + -fields_length % 8), self._receive(length)
            try:
                fields = _fields(head, fields_length, order)
                if kind == SIGNAL and fields.get(MEMBER_FIELD) == "JobRemoved":
                    job, at = _string(body, 4, order)
                    _, at = _string(body, at, order)
                    self._removed[job] = _string(body, at, order)[0]
            except (struct.error, IndexError):
                raise ManagerError("its message makes no sense") from None
            yield kind, fields, body

    def _receive(self, size: int) -> bytes:
        while len(self._data) < size:
            self._receive_more()
        data, self._data = self._data[:size], self._data[size:]
        return data

    def _receive_more(self) -> None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("it takes too long")
        self._socket.settimeout(left_s)
        data = self._socket.recv(1 << 16)
        if not data:
            raise ManagerError("it has hung up")
        self._data += data


def _message(serial: int, path: str, interface: str, member: str, signature: str, body: Body) -> bytes:
    message = Body()
    message.data += struct.pack("<BBBBII", ord("l"), CALL, 0, 1, len(body.data), serial)
    with message.array(8):
        message.struct().data.append(PATH_FIELD)
        message.variant("o").string(path)
        message.struct().data.append(INTERFACE_FIELD)
        message.variant("s").string(interface)
        message.struct().data.append(MEMBER_FIELD)
        message.variant("s").string(member)
        message.struct().data.append(SIGNATURE_FIELD)
        message.variant("g").variant(signature)
    return bytes(message.struct().data + body.data)


def _head(data: bytes) -> tuple[str, int, int, int]:
    order = "<" if data[:1] == b"l" else ">"
    _, kind, _, _, length, _, fields_length = struct.unpack(order + "BBBBIII", data)
    return order, kind, length, fields_length


def _fields(data: bytes, length: int, order: str) -> dict[int, object]:
    """The fields of a header that matter here, by their codes."""
    found: dict[int, object] = {}
    at = 0
    while at < length:
        at += -at % 8
        code, size = data[at], data[at + 1]
        signature = data[at + 2 : at + 2 + size]
        at += 3 + size
        if signature in (b"s", b"o"):
            found[code], at = _string(data, at, order)
        elif signature == b"u":
            at += -at % 4
            (found[code],) = struct.unpack_from(order + "I", data, at)
            at += 4
        else:
            # Only a signature is something else.
            at += data[at] + 2
    return found


def _string(data: bytes, at: int, order: str = "<") -> tuple[str, int]:
    """The text at `at`, and where it ends."""
    at += -at % 4
    (size,) = struct.unpack_from(order + "I", data, at)
    return os.fsdecode(data[at + 4 : at + 4 + size]), at + 5 + size
