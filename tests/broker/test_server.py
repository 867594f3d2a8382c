"""The broker's process: who is let in, what is survived, and how one broker follows another.

The broker runs in a thread of the test, which speaks for the shims; sessions are functions of the test.  Nothing waits
for a time: whatever the broker is to do by itself is due at once.
"""

import itertools
import os
import queue
import resource
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hook.broker.identity import IDENTITY
from hook.front.caller import Caller, Word
from tests.broker.running import LEAK_BYTES, READY, SERVED, TIMEOUT_S, TOLD, Gate, Running, Shim, ask, quick
from tests.leaks import descriptors
from tests.standing import broker_socket

# Conversations


def test_a_hook_is_served_with_what_it_brought(started: Callable[..., Running]) -> None:
    """The caller is the hook: its argument, parent, environment and descriptors."""
    callers = []

    def serve(caller: Caller) -> int:
        assert caller.input_fd == caller.hangup_fd
        assert caller.rest_fd is not None
        for fd in (caller.rest_fd, caller.output_fd, caller.build_log_fd):
            assert os.readlink(f"/proc/self/fd/{fd}") == os.devnull
            assert not os.get_inheritable(fd)
        callers.append(caller)
        return quick(caller)

    with started(serve).shim() as shim:
        assert shim.converse("A=1=2", "EMPTY=", "STATUS=200") == b"k\4\0\0\0keptx\1\0\0\0\xc8"
    (caller,) = callers
    assert (caller.verbosity, caller.parent_pid, caller.root) == (3, os.getpid(), f"/proc/{os.getpid()}/root")
    assert caller.environ == {"A": "1=2", "EMPTY": "", "STATUS": "200"}


@pytest.mark.parametrize("successor", [Word.ALONE, Word.STOCK])
def test_a_conversation_can_be_left_to_somebody_else(started: Callable[..., Running], successor: Word) -> None:
    """In the place of a status, when Nix's pipes are closed here."""
    open_fds = []

    def serve(caller: Caller) -> int:
        open_fds.extend([caller.output_fd, caller.build_log_fd])
        caller.successor = successor
        return 0

    with started(serve).shim() as shim:
        assert shim.converse() == successor.value + bytes(4)
        for fd in open_fds:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)


def test_hooks_do_not_wait_for_each_other(started: Callable[..., Running]) -> None:
    """Nix asks about the next build while others are under way."""
    gate = Gate()
    running = started(lambda caller: gate.serve(caller) if "SLOW" in caller.environ else quick(caller))
    with running.shim() as slow:
        slow.greet(IDENTITY, "SLOW=1")
        slow.hand_over()
        assert gate.entered.acquire(timeout=TIMEOUT_S)
        with running.shim() as shim:
            assert shim.converse() == SERVED
        gate.open.set()
        assert slow.rest() == READY + b"x\1\0\0\0\x05"


def test_a_hook_that_is_gone_is_seen_by_its_session(started: Callable[..., Running]) -> None:
    """Nix kills hooks without a warning."""
    gone = threading.Event()

    def serve(caller: Caller) -> int:
        try:
            caller.pause(TIMEOUT_S)
        finally:
            gone.set()
        return 0

    with started(serve).shim() as shim:
        shim.greet()
        assert shim.socket.recv(100) == READY
        shim.hand_over()
    assert gone.wait(TIMEOUT_S)


def test_a_session_that_fails_is_logged_and_says_no_status(
    started: Callable[..., Running], logged: "queue.Queue[str]"
) -> None:
    """Without one the shim has the stock hook give Nix its answer."""
    before = descriptors()

    def serve(caller: Caller) -> int:
        caller.tell(Word.KEEP, b"")
        raise ZeroDivisionError("surprise")

    running = started(serve)
    with running.shim() as shim:
        assert shim.converse() == b"k\0\0\0\0"
    assert "ZeroDivisionError: surprise" in logged.get(timeout=TIMEOUT_S)
    running.close()
    assert descriptors().items() <= before.items()


# Questions


def test_who_asks_is_told_how_things_are(started: Callable[..., Running]) -> None:
    """Then the broker hangs up."""
    running = started()
    with ask(running, b"status") as asking:
        assert asking.rest() == TOLD


def test_who_has_seen_a_machine_work_says_so(started: Callable[..., Running]) -> None:
    """An address has no blanks, but bytes that are no text."""
    running = started()
    with ask(running, b"worked ssh-ng://b\xff") as asking:
        assert asking.rest() == TOLD
    assert running.worked == ["ssh-ng://b\udcff"]


def test_being_asked_is_no_work(started: Callable[..., Running]) -> None:
    """Somebody who watches must not keep alive what there is to watch."""
    running = started(idle_exit_s=3600.0)
    with running.shim() as shim:
        assert shim.converse() == SERVED
    used = running.broker.last_used
    with ask(running, b"status") as asking:
        assert asking.rest() == TOLD
    assert running.broker.last_used == used


def test_a_broker_that_is_asked_to_leave_serves_its_hooks_first(
    started: Callable[..., Running], logged: "queue.Queue[str]"
) -> None:
    """Who asked hears the end of it; meanwhile another broker can begin."""
    gate = Gate()
    running = started(gate.serve)
    with running.shim() as shim:
        shim.greet()
        shim.hand_over()
        assert gate.entered.acquire(timeout=TIMEOUT_S)
        with ask(running, b"retire") as asking:
            assert asking.socket.recv(len(TOLD)) == TOLD
            assert logged.get(timeout=TIMEOUT_S) == "making room: we were asked to"
            with started().shim() as other:
                assert other.converse() == SERVED
            asking.socket.setblocking(False)
            with pytest.raises(BlockingIOError):
                asking.socket.recv(1)
            asking.socket.settimeout(TIMEOUT_S)
            gate.open.set()
            assert shim.rest() == READY + b"x\1\0\0\0\x05"
            running.join()
            running.broker.close()
            assert asking.rest() == b""


@pytest.mark.parametrize("question", [b"", b"weather", b"status" * 100], ids=["empty", "unknown", "long"])
def test_a_strange_question_gets_no_answer(
    started: Callable[..., Running], logged: "queue.Queue[str]", question: bytes
) -> None:
    """It is logged; the next one is answered."""
    running = started()
    with ask(running, question) as asking:
        assert asking.rest() == b""
    assert "a hook was not served: " in logged.get(timeout=TIMEOUT_S)
    with ask(running, b"status") as asking:
        assert asking.rest() == TOLD


# What is survived


def test_without_descriptors_hooks_wait_for_one(started: Callable[..., Running], logged: "queue.Queue[str]") -> None:
    """A broker that ended would take all builds along."""
    running = started()
    # Only at its beginning it opens files by itself: then the descriptor that is free here would not be the only one.
    running.wait_for_ticks()
    address = str(broker_socket(running.directory))
    with socket.socket(socket.AF_UNIX) as connection:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(connection.fileno())
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        try:
            connection.connect(address)
            assert "cannot accept a hook: [Errno 24]" in logged.get(timeout=TIMEOUT_S)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        connection.settimeout(TIMEOUT_S)
        shim = Shim.__new__(Shim)
        shim.socket = connection
        assert shim.converse() == SERVED


def test_without_a_thread_a_hook_is_turned_away(
    started: Callable[..., Running], logged: "queue.Queue[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can do without us; we cannot do without the others."""
    running = started()
    # It has a thread of its own by now.
    running.wait_for_ticks()

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with running.shim() as shim:
            assert shim.rest() == b""
    assert "can't start new thread" in logged.get(timeout=TIMEOUT_S)
    with running.shim() as shim:
        assert shim.converse() == SERVED


def test_what_fails_while_tidying_up_is_logged(started: Callable[..., Running], logged: "queue.Queue[str]") -> None:
    """No space for the next log, say."""
    running = started()

    def fail() -> None:
        raise OSError("disk full")

    running.tidy = fail
    assert "disk full" in logged.get(timeout=TIMEOUT_S)
    assert "disk full" in logged.get(timeout=TIMEOUT_S)
    running.tidy = lambda: None
    with running.shim() as shim:
        assert shim.converse() == SERVED


@pytest.mark.no_cover
def test_many_hooks_leave_nothing_behind(started: Callable[..., Running]) -> None:
    """No descriptor, no thread and no memory, however many come."""
    running = started()
    running.wait_for_ticks()
    before, threads = descriptors(), set(threading.enumerate())
    resident = []
    for _ in range(4):
        for _ in range(500):
            with running.shim() as shim:
                assert shim.converse() == SERVED
        # A session has a little left to do after its last word.
        for thread in set(threading.enumerate()) - threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
    assert descriptors().items() <= before.items()
    # What is lost is lost every time; memory that is only kept for later is obtained once.
    assert min(after - before for before, after in itertools.pairwise(resident)) < 500 * LEAK_BYTES
    running.close()
    assert descriptors().items() < before.items()
