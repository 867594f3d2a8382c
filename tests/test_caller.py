"""Waiting for Nix to read the log: not a byte may be left when the hook ends, and nobody waits forever."""

import os
import threading
from collections.abc import Iterator

import pytest

from hook import caller as caller_module
from hook.caller import Caller
from hook.errors import Cancelled

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
    waiter.join(5)
    assert not waiter.is_alive()


def test_a_reader_that_never_comes_is_not_waited_for(
    log_pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nix may hang; the build has ended all the same."""
    monkeypatch.setattr(caller_module, "LOG_PATIENCE_S", 0.01)
    caller(log_pipe).settle_log()
    assert os.read(log_pipe[0], len(LOG)) == LOG


def test_a_caller_that_goes_away_ends_the_wait(log_pipe: tuple[int, int]) -> None:
    """Its hangup descriptor tells; here it is readable from the start."""
    with pytest.raises(Cancelled):
        caller(log_pipe, hangup_fd=log_pipe[0]).settle_log()


def test_a_log_that_goes_to_no_pipe_is_settled() -> None:
    """A file or /dev/null keeps nothing back."""
    with open(os.devnull, "wb") as null:
        caller((-1, null.fileno())).settle_log()
