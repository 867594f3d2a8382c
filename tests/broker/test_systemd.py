"""A unit of systemd for the broker: whatever systemd makes of the wish, it costs a bounded time and never the broker.

Against a manager that speaks as the test says; a real one is in tests/environments.
"""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from jeepney import Endianness, Header, HeaderFields, Message, MessageType

from hook.broker import systemd, unit
from hook.broker.systemd import Manager, ManagerError

TIMEOUT_S = 30
JOB = "/org/freedesktop/systemd1/job/7"

Speak = Callable[[socket.socket], None]


def reply(job: str, serial: int = 1) -> bytes:
    return said(MessageType.method_return, {HeaderFields.reply_serial: serial}, "o", (job,))


def removed(job: str, result: str) -> bytes:
    return said(MessageType.signal, {HeaderFields.member: "JobRemoved"}, "uoss", (7, job, "some.scope", result))


def said(kind: MessageType, fields: dict[HeaderFields, object], signature: str, body: tuple[object, ...]) -> bytes:
    fields = {HeaderFields.path: "/", **fields, HeaderFields.signature: signature}
    return Message(Header(Endianness.little, kind, 0, 1, 0, 1, fields), body).serialise()


def authenticate(connection: socket.socket) -> None:
    expected = f"\0AUTH EXTERNAL {str(os.geteuid()).encode().hex()}\r\n".encode()
    assert connection.recv(len(expected), socket.MSG_WAITALL) == expected
    connection.sendall(b"OK 0123456789abcdef\r\n")
    assert connection.recv(7, socket.MSG_WAITALL) == b"BEGIN\r\n"


def hear_call(connection: socket.socket) -> bytes:
    head = connection.recv(16, socket.MSG_WAITALL)
    length, _, fields = struct.unpack_from("<III", head, 4)
    return connection.recv(fields + -fields % 8 + length, socket.MSG_WAITALL)


@pytest.fixture
def speaking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Speak], str]]:
    """Starts a manager that does this with whoever comes, however long it takes to begin; returns its address."""
    monkeypatch.setattr(systemd, "CONNECT_S", TIMEOUT_S)
    threads: list[threading.Thread] = []
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "private"))
    server.listen()

    def start(speak: Speak) -> str:
        def serve() -> None:
            # Who has waited long enough may have gone before it has heard, or read, everything.
            with server.accept()[0] as connection, suppress(OSError):
                speak(connection)
                # Until the other end hangs up.
                connection.recv(1)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return str(tmp_path / "private")

    yield start
    for thread in threads:
        thread.join(TIMEOUT_S)
    server.close()


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever it is that speaks."""
    monkeypatch.setattr(Manager, "_check_peer", lambda manager: None)


@pytest.mark.usefixtures("trusted")
def test_a_unit_is_there_when_its_job_is_done(speaking: Callable[[Speak], str]) -> None:
    """Other jobs end meanwhile, and the end of ours may be told before it has a name."""

    def speak(connection: socket.socket) -> None:
        authenticate(connection)
        assert b"StartUnit\0" in hear_call(connection)
        connection.sendall(removed("/another", "failed") + removed(JOB, "done") + reply(JOB))
        assert b"StartUnit\0" in hear_call(connection)
        connection.sendall(reply(JOB[:-1] + "8", 2))
        for byte in removed(JOB[:-1] + "8", "done"):
            connection.sendall(bytes([byte]))

    manager = Manager(speaking(speak))
    for _ in range(2):
        manager.run("StartUnit", "ss", ("some.service", "replace"), TIMEOUT_S)
    manager.close()


def fails(connection: socket.socket) -> None:
    authenticate(connection)
    hear_call(connection)
    connection.sendall(reply(JOB) + removed(JOB, "failed"))


def refuses(connection: socket.socket) -> None:
    authenticate(connection)
    hear_call(connection)
    connection.sendall(said(MessageType.error, {HeaderFields.reply_serial: 1}, "s", ("no such unit",)))


def hangs_up(connection: socket.socket) -> None:
    authenticate(connection)
    hear_call(connection)
    connection.shutdown(socket.SHUT_RDWR)


def hangs(connection: socket.socket) -> None:
    authenticate(connection)


def lies(connection: socket.socket) -> None:
    authenticate(connection)
    connection.sendall(b"\xff" * 100)


def stammers(connection: socket.socket) -> None:
    authenticate(connection)
    connection.sendall(reply(JOB).replace(b"\x05\x01u\0", b"\x05\x01w\0"))


def gives_no_name(connection: socket.socket) -> None:
    authenticate(connection)
    hear_call(connection)
    connection.sendall(said(MessageType.method_return, {HeaderFields.reply_serial: 1}, "", ()))


def promises_much(connection: socket.socket) -> None:
    authenticate(connection)
    hear_call(connection)
    connection.sendall(reply(JOB)[:4] + struct.pack("<I", 1 << 30) + reply(JOB)[8:])


def drips(connection: socket.socket) -> None:
    """Enough never to be silent, never enough."""
    authenticate(connection)
    while True:
        connection.sendall(removed("/another", "done"))


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    "speak",
    [fails, refuses, hangs_up, hangs, lies, stammers, gives_no_name, promises_much, drips],
    ids=lambda speak: speak.__name__,
)
def test_whatever_else_it_does_ends_in_time(speaking: Callable[[Speak], str], speak: Speak) -> None:
    manager = Manager(speaking(speak))
    began = time.monotonic()
    with pytest.raises(ManagerError):
        manager.run("StartUnit", "ss", ("some.service", "replace"), 0.2)
    assert time.monotonic() - began < TIMEOUT_S
    manager.close()


def test_who_is_not_the_first_process_is_not_asked(speaking: Callable[[Speak], str]) -> None:
    """In a container that shows the socket of its host, our number is another process there."""
    address = speaking(authenticate)
    with pytest.raises(ManagerError, match="not the manager"):
        Manager(address)


def test_without_systemd_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers, mostly."""
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    assert not unit.has_started("/nowhere", "00000000")
