"""Waiting on behalf of a hook: for Nix to ask, for Nix to read the log, and never for a hook that is gone."""

import fcntl
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hook.errors import Cancelled
from hook.front import caller as caller_module
from hook.front.caller import Caller

LOG = b"last words\n"


@pytest.fixture
def log_pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe with a log in it that nobody has read."""
    read_fd, write_fd = os.pipe()
    os.write(write_fd, LOG)
    yield read_fd, write_fd
    os.close(read_fd)
    os.close(write_fd)


def caller(log_pipe: tuple[int, int], hangup_fd: int | None = None) -> Caller:
    return Caller(-1, -1, log_pipe[1], "3", {}, os.getpid(), hangup_fd)


def test_the_log_is_settled_when_it_has_been_read(log_pipe: tuple[int, int]) -> None:
    """Not before: whoever ends then takes what is left along."""
    waiter = threading.Thread(target=caller(log_pipe).settle_log)
    waiter.start()
    waiter.join(0.05)
    assert waiter.is_alive()
    assert os.read(log_pipe[0], len(LOG)) == LOG
    waiter.join(30)
    assert not waiter.is_alive()


def test_a_reader_that_never_comes_is_not_waited_for(
    log_pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nix may hang; the build has ended all the same."""
    monkeypatch.setattr(caller_module, "LOG_PATIENCE_S", 0.01)
    caller(log_pipe).settle_log()
    assert os.read(log_pipe[0], len(LOG)) == LOG


def test_a_caller_that_goes_away_ends_the_wait(log_pipe: tuple[int, int]) -> None:
    """Its hangup descriptor tells; here it has hung up from the start."""
    hangup, end = os.pipe()
    os.close(end)
    with pytest.raises(Cancelled):
        caller(log_pipe, hangup_fd=hangup).settle_log()
    os.close(hangup)


def test_a_log_that_goes_to_no_pipe_is_settled() -> None:
    """A file or /dev/null keeps nothing back."""
    with open(os.devnull, "wb") as null:
        caller((-1, null.fileno())).settle_log()


# Waiting for Nix, and for the hook's end


class Hook:
    """A caller whose standard input and life the test holds."""

    def __init__(self) -> None:
        self.input, self._input_end = os.pipe()
        self.rest, self._rest_end = os.pipe()
        self.hangup, self._hangup_end = os.pipe()
        self.caller = Caller(self.input, -1, -1, "3", {}, os.getpid(), self.hangup, self.rest)

    def ask(self) -> None:
        os.write(self._input_end, b"try")

    def end_input(self) -> None:
        os.close(self._input_end)
        self._input_end = -1

    def send_rest(self, data: bytes) -> None:
        os.write(self._rest_end, data)

    def end_rest(self) -> None:
        os.close(self._rest_end)
        self._rest_end = -1

    def die(self) -> None:
        os.close(self._hangup_end)
        self._hangup_end = -1

    def close(self) -> None:
        ends = self._input_end, self._rest_end, self._hangup_end
        for fd in (self.input, self.rest, self.hangup, *ends):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.close()


def test_what_was_passed_on_comes_before_what_nix_still_says(hook: Hook) -> None:
    """The job may be in its pipe before the question was read."""
    hook.send_rest(b"inputs")
    hook.ask()
    assert hook.caller.read(100) == b"try"
    hook.end_input()
    assert hook.caller.read(100) == b"inputs"
    hook.end_rest()
    assert hook.caller.read(100) == b""


def test_a_dead_hook_asks_nothing(hook: Hook) -> None:
    """What it left in the pipe may already be somebody else's to read."""
    hook.ask()
    hook.die()
    with pytest.raises(Cancelled):
        hook.caller.read(100)


def test_a_hook_whose_connection_is_half_closed_is_not_dead() -> None:
    """The shim has passed on everything and waits for the status."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        caller = Caller(ours.fileno(), -1, -1, "3", {}, os.getpid(), ours.fileno())
        theirs.sendall(b"try")
        theirs.shutdown(socket.SHUT_WR)
        assert (caller.read(100), caller.read(100)) == (b"try", b"")
        caller.pause(0.001)
        theirs.close()
        with pytest.raises(Cancelled):
            caller.pause(1000)


def test_a_pause_ends_by_itself_or_with_the_hook(hook: Hook) -> None:
    hook.caller.pause(0.001)
    hook.die()
    with pytest.raises(Cancelled):
        hook.caller.pause(1000)


def test_waiting_works_with_thousands_of_descriptors(hook: Hook) -> None:
    """A broker with two hundred builds has that many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        high = fcntl.fcntl(hook.hangup, fcntl.F_DUPFD_CLOEXEC, 3000)
        hook.caller.hangup_fd = high
        hook.caller.pause(0.001)
        hook.die()
        with pytest.raises(Cancelled):
            hook.caller.pause(1000)
        os.close(high)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(("inside", "same"), [("same", True), ("other", False), ("absent", False)])
def test_the_hook_may_live_in_another_file_system(hook: Hook, tmp_path: Path, inside: str, same: bool) -> None:
    """A sandbox or a container with the broker's directory, but with a store of its own."""
    (tmp_path / "store").mkdir()
    root = tmp_path / "root"
    seen = Path(f"{root}{tmp_path}/store")
    seen.parent.mkdir(parents=True)
    if inside == "same":
        seen.symlink_to(tmp_path / "store")
    elif inside == "other":
        seen.mkdir()
    hook.caller.root = str(root)
    assert hook.caller.sees(str(tmp_path / "store")) is same


def test_a_hook_without_a_broker_sees_what_it_sees(tmp_path: Path) -> None:
    """There is nothing to compare."""
    assert Caller(-1, -1, -1, "3", {}, os.getpid()).sees(str(tmp_path))


@pytest.mark.parametrize("fd", [None, "silent"])
def test_a_bounded_wait_lasts_as_long_as_it_says(hook: Hook, fd: str | None) -> None:
    """Whoever waits in a loop would spin otherwise."""
    silent, end = os.pipe()
    try:
        began = time.monotonic()
        assert not hook.caller.wait_for(silent if fd else None, 0.05)
        assert time.monotonic() - began >= 0.05
    finally:
        os.close(silent)
        os.close(end)
