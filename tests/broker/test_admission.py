"""Who is let in by a broker, and what becomes of others."""

import os
import queue
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hook.broker.server import check_peer
from tests.broker.running import NOBODY, READY, SERVED, TIMEOUT_S, Running, Shim
from tests.leaks import descriptors
from tests.standing import broker_socket


@pytest.mark.parametrize("user", [NOBODY, os.geteuid()])
def test_another_user_is_recognised(user: int) -> None:
    """The kernel says who connected, whatever they say themselves."""
    own = os.geteuid()
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        # In no directory, which could be closed to that user.
        server.bind(f"\0nix-ferry-test-{os.getpid()}")
        server.listen()
        os.seteuid(user)
        try:
            client.connect(server.getsockname())
        finally:
            os.seteuid(own)
        with server.accept()[0] as connection:
            if user == own:
                assert check_peer(connection) == os.getpid()
            else:
                with pytest.raises(PermissionError, match=f"user {NOBODY}"):
                    check_peer(connection)


def test_who_only_looks_leaves_no_line(started: Callable[..., Running], logged: "queue.Queue[str]") -> None:
    """Whether a broker listens is asked by every doctor."""
    running = started()
    with running.shim() as shim:
        shim.socket.shutdown(socket.SHUT_WR)
        assert shim.rest() == b""
    with running.shim() as shim:
        shim.socket.sendall(b"nixfairy" + bytes(4))
        assert shim.rest() == b""
    assert "it is no nix-ferry-hook" in logged.get(timeout=TIMEOUT_S)
    assert logged.empty()


def test_another_user_is_not_served(
    started: Callable[..., Running], logged: "queue.Queue[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should the directory ever be open to others."""
    running = started()
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    with running.shim() as shim:
        assert shim.rest() == b""
    assert f"it belongs to user {os.getuid()}" in logged.get(timeout=TIMEOUT_S)


GREETINGS = {
    "short header": b"nixferry\x05",
    "wrong magic": b"nixfairy" + bytes(4),
    "huge": b"nixferry\xff\xff\xff\xff",
    "short": b"nixferry\x50\0\0\0" + b"\0002\0003\0001\0",
    "no words": b"nixferry\0\0\0\0",
    "two words": b"nixferry\x05\0\0\0" + b"\0002\0003",
    "no number": b"nixferry\x07\0\0\0" + b"\0002\0003\0x\0",
    "another format": b"nixferry\x07\0\0\0" + b"\0003\0003\0001\0",
}


@pytest.mark.parametrize("greeting", GREETINGS.values(), ids=GREETINGS)
def test_a_malformed_greeting_is_logged_and_hurts_nobody(
    started: Callable[..., Running], logged: "queue.Queue[str]", greeting: bytes
) -> None:
    """Nothing is said, so a shim would go elsewhere; the next hook is served."""
    before = descriptors()
    running = started()
    with running.shim() as shim:
        shim.socket.sendall(greeting)
        shim.socket.shutdown(socket.SHUT_WR)
        assert shim.rest() == b""
    assert "a hook was not served: " in logged.get(timeout=TIMEOUT_S)
    with running.shim() as shim:
        assert shim.converse() == SERVED
    running.close()
    assert descriptors().items() <= before.items()


@pytest.mark.parametrize("count", [0, 2, 4, 5, 200])
def test_a_wrong_number_of_descriptors_leaks_none(
    started: Callable[..., Running], logged: "queue.Queue[str]", count: int
) -> None:
    """Those that came are closed; the next hook is served."""
    before = descriptors()
    running = started()
    with running.shim() as shim:
        shim.greet()
        assert shim.socket.recv(100) == READY
        shim.hand_over(count)
        assert shim.rest() == b""
    assert "descriptors" in logged.get(timeout=TIMEOUT_S)
    with running.shim() as shim:
        assert shim.converse() == SERVED
    running.close()
    assert descriptors().items() <= before.items()


ELSEWHERE = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(b"nixferry" + bytes(4))
connection.shutdown(socket.SHUT_WR)
assert connection.recv(1) == b""
"""


def test_who_stands_elsewhere_is_not_served(
    started: Callable[..., Running], logged: "queue.Queue[str]", tmp_path: Path
) -> None:
    """It sees another network: what is built for it there is not for us to build here."""
    running = started()
    command = ["unshare", "--net", sys.executable, "-c", ELSEWHERE, str(broker_socket(tmp_path))]
    subprocess.run(command, check=True)
    assert "it stands elsewhere" in logged.get(timeout=TIMEOUT_S)
    with running.shim() as shim:
        assert shim.converse() == SERVED


UNSEEING = """
import sys
from hook.broker.server import Broker
from hook.broker.standing import standing_of
broker = Broker(sys.argv[1], standing_of(0), lambda caller: 0, lambda: None, bytes)
assert broker.listen()
print(broker._path, flush=True)
broker.run()
"""


def test_who_cannot_be_seen_is_not_served(tmp_path: Path) -> None:
    """Outside of the broker's pid namespace, from where the kernel names no process."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*unshare, sys.executable, "-c", UNSEEING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            with Shim(process.stdout.readline().rstrip("\n")) as shim:
                shim.greet()
                assert shim.rest() == b""
            assert process.stderr is not None
            assert "it stands elsewhere" in process.stderr.readline()
        finally:
            process.kill()
