"""Which broker a command asks, and what it makes of strange answers."""

import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hook.broker import client as asking
from hook.broker.client import RunningBroker, broker_directory, overview_of, say_they_work
from hook.broker.identity import IDENTITY
from hook.errors import FerryError
from tests.standing import broker_socket

NOBODY = 65534


def test_our_own_directory_is_taken(tmp_path: Path) -> None:
    """The first of the two that the shim looks at, whether or not there is one yet."""
    state, runtime = tmp_path / "state", tmp_path / "runtime"
    environ = {"NIX_STATE_DIR": str(state), "XDG_RUNTIME_DIR": str(runtime)}
    state.mkdir()
    runtime.mkdir()
    assert broker_directory(environ) == str(state / "nix-ferry")
    (runtime / "nix-ferry").mkdir()
    assert broker_directory(environ) == str(runtime / "nix-ferry")
    (state / "nix-ferry").mkdir()
    assert broker_directory(environ) == str(state / "nix-ferry")


def test_nothing_is_made(tmp_path: Path) -> None:
    """To look must not change what is looked at."""
    broker_directory({"NIX_STATE_DIR": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


def test_another_users_broker_is_named_with_what_to_do(tmp_path: Path) -> None:
    """The usual case: a daemon builds as root, and an ordinary user asks, who has a runtime directory."""
    directory = tmp_path / "state/nix-ferry"
    directory.mkdir(parents=True)
    (tmp_path / "runtime").mkdir()
    os.chown(directory, NOBODY, NOBODY)
    environ = {"NIX_STATE_DIR": str(tmp_path / "state"), "XDG_RUNTIME_DIR": str(tmp_path / "runtime")}
    with pytest.raises(FerryError, match=r"belongs to user 'nobody', who builds on this host: run this as 'nobody'$"):
        broker_directory(environ)


def test_a_user_who_cannot_build_is_told_who_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hook has run yet, and none of this user's could."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(FerryError, match="run this as root"):
        broker_directory({"NIX_STATE_DIR": str(tmp_path)})


def test_a_user_with_a_store_of_their_own_is_not_sent_to_root(tmp_path: Path) -> None:
    """Nix puts it below their home where there is no state directory; root's would be another one."""
    with pytest.raises(FerryError, match=r"each hook works alone$"):
        broker_directory({"NIX_STATE_DIR": str(tmp_path / "nowhere")})


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[Callable[[bytes | None], str]]:
    """Starts somebody who answers one question like this, or never; returns the directory."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(broker_socket(tmp_path)))
    server.listen()
    kept: list[socket.socket] = [server]
    threads: list[threading.Thread] = []

    def start(answer: bytes | None) -> str:
        def serve() -> None:
            connection = server.accept()[0]
            kept.append(connection)
            if answer is not None:
                connection.recv(100)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return str(tmp_path)

    yield start
    for thread in threads:
        thread.join()
    for each in kept:
        each.close()


def framed(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode()


def test_an_answer_is_believed(answers: Callable[[bytes | None], str]) -> None:
    report = {"identity": IDENTITY, "builds": []}
    assert overview_of(answers(framed(json.dumps(report)))) == report


@pytest.mark.parametrize(
    "answer",
    [b"", b"\x05\0\0\0[]", framed("[]"), framed("no JSON"), framed('{"identity": "99.9-0"}')],
    ids=["none", "cut off", "a list", "text", "another build"],
)
def test_a_broker_of_another_build_is_recognised(answers: Callable[[bytes | None], str], answer: bytes) -> None:
    """One that knows no questions hangs up; what it says cannot be told from what it means."""
    with pytest.raises(FerryError, match="is of another build than this command"):
        overview_of(answers(answer))


def test_a_broker_that_does_not_react_is_not_waited_for_for_ever(
    answers: Callable[[bytes | None], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "TIMEOUT_S", 0.01)
    with pytest.raises(FerryError, match=rf"the broker \(process {os.getpid()}\) does not answer: timed out"):
        overview_of(answers(None))


def test_what_was_found_to_work_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To whatever broker there is; that there is none, or one that does not understand, is nobody's trouble."""
    heard = []
    environ = {"NIX_STATE_DIR": str(tmp_path)}
    say_they_work(["ssh-ng://b1"], environ)
    (tmp_path / "nix-ferry").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(broker_socket(tmp_path / "nix-ferry")))
        server.listen()

        def serve() -> None:
            for _ in range(2):
                with server.accept()[0] as connection:
                    heard.append(connection.recv(100))
                    connection.sendall(framed(json.dumps({"identity": IDENTITY})) if len(heard) == 1 else b"")

        thread = threading.Thread(target=serve)
        thread.start()
        say_they_work(["ssh-ng://b1", "ssh-ng://\udcff"], environ)
        thread.join()
    words = [b"worked ssh-ng://b1", b"worked ssh-ng://\xff"]
    assert heard == [b"ferryask" + struct.pack("<I", len(word)) + word for word in words]


def test_no_broker_is_no_error(tmp_path: Path) -> None:
    """There never was one, or it was killed and has left its socket."""
    assert overview_of(str(tmp_path)) is None
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(broker_socket(tmp_path)))
    assert RunningBroker.reach(str(tmp_path)) is None
