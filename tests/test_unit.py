"""A unit of systemd for the broker: whatever systemd makes of the wish, it costs a bounded time and never the broker.

Against a manager that speaks as the test says; a real one is in tests/environments.
"""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hook.cli import unit
from hook.cli.unit import Body, Manager, ManagerError

TIMEOUT_S = 30
JOB = "/org/freedesktop/systemd1/job/7"

Speak = Callable[[socket.socket], None]


def message(kind: int, fields: bytes, body: bytes) -> bytes:
    return (
        struct.pack("<BBBBIII", ord("l"), kind, 0, 1, len(body), 1, len(fields))
        + fields
        + bytes(-len(fields) % 8)
        + body
    )


def reply(text: str, serial: int = 1) -> bytes:
    return message(unit.REPLY, b"\x05\x01u\0" + struct.pack("<I", serial), bytes(Body().string(text).data))


def removed(job: str, result: str) -> bytes:
    body = Body().number(7).string(job).string("some.scope").string(result)
    fields = Body()
    fields.data += b"\x03\x01s\0"
    fields.string("JobRemoved")
    return message(unit.SIGNAL, bytes(fields.data), bytes(body.data))


def authenticate(connection: socket.socket) -> None:
    expected = f"\0AUTH EXTERNAL {str(os.geteuid()).encode().hex()}\r\nBEGIN\r\n".encode()
    assert connection.recv(len(expected), socket.MSG_WAITALL) == expected
    connection.sendall(b"OK 0123456789abcdef\r\n")


def hear_call(connection: socket.socket) -> bytes:
    head = connection.recv(16, socket.MSG_WAITALL)
    length, _, fields = struct.unpack_from("<III", head, 4)
    return connection.recv(fields + -fields % 8 + length, socket.MSG_WAITALL)


@pytest.fixture
def speaking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Speak], str]]:
    """Starts a manager that does this with whoever comes; returns its address."""
    threads: list[threading.Thread] = []
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "private"))
    server.listen()
    monkeypatch.setattr(Manager, "_check_peer", lambda manager: None)

    def start(speak: Speak) -> str:
        def serve() -> None:
            with server.accept()[0] as connection:
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
        manager.run("StartUnit", "ss", Body().string("some.service").string("replace"), TIMEOUT_S)
    manager.close()


def fails(connection: socket.socket) -> None:
    authenticate(connection)
    hear_call(connection)
    connection.sendall(reply(JOB) + removed(JOB, "failed"))


def refuses(connection: socket.socket) -> None:
    authenticate(connection)
    hear_call(connection)
    connection.sendall(message(3, b"\x05\x01u\0\x01\0\0\0", bytes(Body().string("no such unit").data)))


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
    connection.sendall(message(unit.REPLY, b"\x05\x01u\0\1", b""))


def gives_no_name(connection: socket.socket) -> None:
    authenticate(connection)
    hear_call(connection)
    connection.sendall(message(unit.REPLY, b"\x05\x01u\0\1\0\0\0", b""))


def drips(connection: socket.socket) -> None:
    """Enough never to be silent, never enough."""
    authenticate(connection)
    try:
        while True:
            connection.sendall(removed("/another", "done"))
    except OSError:
        pass


@pytest.mark.parametrize(
    "speak",
    [fails, refuses, hangs_up, hangs, lies, stammers, gives_no_name, drips],
    ids=lambda speak: speak.__name__,
)
def test_whatever_else_it_does_ends_in_time(speaking: Callable[[Speak], str], speak: Speak) -> None:
    manager = Manager(speaking(speak))
    began = time.monotonic()
    with pytest.raises(ManagerError):
        manager.run("StartUnit", "ss", Body().string("some.service").string("replace"), 0.2)
    assert time.monotonic() - began < TIMEOUT_S
    manager.close()


def test_who_is_not_the_first_process_is_not_asked(tmp_path: Path) -> None:
    """In a container that shows the socket of its host, our number is another process there."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "stranger"))
        server.listen()
        with pytest.raises(ManagerError, match="not the manager"):
            Manager(str(tmp_path / "stranger"))


def test_without_systemd_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers, mostly."""
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    assert not unit.has_started("/nowhere", "00000000")
