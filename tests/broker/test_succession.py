"""One broker at a time: how it begins, makes room for another one, and ends."""

import fcntl
import queue
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hook.broker import server as broker_module
from hook.broker.server import Broker
from tests.broker.running import (
    READY,
    REPORT,
    SERVED,
    TIMEOUT_S,
    Gate,
    Running,
    quick,
)
from tests.leaks import descriptors
from tests.standing import broker_lock, broker_socket, standing


def test_there_is_one_broker(started: Callable[..., Running], tmp_path: Path) -> None:
    """Two would not know of each other's builds."""
    before = descriptors()
    running = started()
    assert not Broker(str(tmp_path), standing(), quick, lambda: None, lambda: REPORT).listen()
    with running.shim() as shim:
        assert shim.converse() == SERVED
    running.close()
    assert descriptors().items() <= before.items()


def test_the_socket_of_a_killed_broker_is_replaced(started: Callable[..., Running], tmp_path: Path) -> None:
    """The kernel frees the lock; the file stays."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(broker_socket(tmp_path)))
    with started().shim() as shim:
        assert shim.converse() == SERVED


@pytest.fixture
def leaving(tmp_path: Path) -> Iterator[int]:
    """The lock of a broker that has removed its socket, and not let go yet."""
    with open(broker_lock(tmp_path), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def test_a_broker_that_is_leaving_is_waited_for(leaving: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Giving up at once would leave the hook without a broker."""
    monkeypatch.setattr("time.sleep", lambda seconds: fcntl.flock(leaving, fcntl.LOCK_UN))
    running = Running(tmp_path, quick)
    running.close()


def test_who_removes_what_a_dead_broker_has_left_is_not_taken_for_a_live_one(
    leaving: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The housekeeper of another namespace's broker: the hook would look in vain for whoever listens."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(broker_socket(tmp_path)))
    monkeypatch.setattr("time.sleep", lambda seconds: fcntl.flock(leaving, fcntl.LOCK_UN))
    running = Running(tmp_path, quick)
    running.close()


def test_a_broker_that_does_not_leave_is_not_waited_for_longer(
    leaving: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits for ever."""
    monkeypatch.setattr(broker_module, "TAKEOVER_S", 0.05)
    assert not Broker(str(tmp_path), standing(), quick, lambda: None, lambda: REPORT).listen()


def test_a_hook_that_does_not_know_what_is_installed_is_served(started: Callable[..., Running]) -> None:
    """Nothing is, any more; what runs is all that is left of it."""
    with started().shim() as shim:
        shim.greet("")
        shim.begin()
        assert shim.rest() == SERVED


def test_a_hook_of_another_build_gets_room_for_its_broker(
    started: Callable[..., Running], logged: "queue.Queue[str]"
) -> None:
    """The session under way goes on to its end; who comes now finds a broker of their own."""
    gate = Gate()
    running = started(gate.serve)
    with running.shim() as shim:
        shim.greet()
        shim.hand_over()
        assert gate.entered.acquire(timeout=TIMEOUT_S)
        with running.shim() as other:
            other.greet("99.9-5f", form="1000")
            assert other.rest() == b""
        assert logged.get(timeout=TIMEOUT_S) == "making room for build '99.9-5f'"
        successor = started()
        with successor.shim() as other:
            assert other.converse() == SERVED
        gate.open.set()
        assert shim.rest() == READY + b"x\1\0\0\0\x05"
    running.join()
    with successor.shim() as other:
        assert other.converse() == SERVED


def test_who_has_connected_before_a_retirement_is_served(tmp_path: Path) -> None:
    """The hook could not know."""
    running = Running(tmp_path, quick)
    shims = [running.shim() for _ in range(5)]
    running.broker.retire()
    running.start()
    for shim in shims:
        with shim:
            assert shim.converse() == SERVED
    running.join()
    with pytest.raises(FileNotFoundError):
        running.shim()


def test_a_broker_without_work_ends(started: Callable[..., Running], tmp_path: Path) -> None:
    """And leaves nothing that the next one could trip over."""
    started(idle_exit_s=0).join()
    assert not broker_socket(tmp_path).exists()
    with started().shim() as shim:
        assert shim.converse() == SERVED


def test_a_broker_with_a_long_build_stays(started: Callable[..., Running]) -> None:
    """Idle is who has no session, not who has heard nothing new."""
    gate = Gate()
    running = started(gate.serve)
    with running.shim() as shim:
        shim.greet()
        shim.hand_over()
        assert gate.entered.acquire(timeout=TIMEOUT_S)
        running.broker.idle_exit_s = 0
        running.wait_for_ticks()
        with running.shim() as other:
            other.greet()
            assert other.socket.recv(100) == READY
        gate.open.set()
        assert shim.rest() == READY + b"x\1\0\0\0\x05"
    running.join()


def test_a_broker_keeps_house_under_load(started: Callable[..., Running]) -> None:
    """Warm connections must not stay for ever because hooks keep coming."""
    running = started()
    while not running.ticks.acquire(blocking=False):
        with running.shim() as shim:
            assert shim.converse() == SERVED


def test_a_broker_that_nobody_can_find_ends(started: Callable[..., Running], tmp_path: Path) -> None:
    """Somebody has cleaned up."""
    running = started()
    broker_socket(tmp_path).unlink()
    running.join()


def test_a_broker_leaves_the_socket_of_another_one_alone(started: Callable[..., Running], tmp_path: Path) -> None:
    """Somebody has removed the whole directory, and a hook has started another broker."""
    running = started()
    running.wait_for_ticks()
    # In this order: without its socket it ends, and removes its lock.
    broker_lock(tmp_path).unlink()
    broker_socket(tmp_path).unlink()
    successor = started()
    running.join()
    with successor.shim() as shim:
        assert shim.converse() == SERVED
