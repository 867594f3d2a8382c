"""Waiting on behalf of a hook: for Nix to ask, for Nix to read the log, and never for a hook that is gone."""

import fcntl
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hook import caller as caller_module
from hook.caller import Caller, State
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
    """Its hangup descriptor tells; here it is readable from the start."""
    with pytest.raises(Cancelled):
        caller(log_pipe, hangup_fd=log_pipe[0]).settle_log()


def test_a_log_that_goes_to_no_pipe_is_settled() -> None:
    """A file or /dev/null keeps nothing back."""
    with open(os.devnull, "wb") as null:
        caller((-1, null.fileno())).settle_log()


# Waiting for Nix, and for the hook's end


class Hook:
    """A caller whose standard input and life the test holds; `told` is what its shim was told."""

    def __init__(self) -> None:
        self.input, self._input_end = os.pipe()
        self.hangup, self._hangup_end = os.pipe()
        self.told: list[State] = []
        self.caller = Caller(self.input, -1, -1, "3", {}, os.getpid(), self.hangup, tell=self.told.append)

    def ask(self) -> None:
        os.write(self._input_end, b"try")

    def end_input(self) -> None:
        os.close(self._input_end)
        self._input_end = -1

    def die(self) -> None:
        os.close(self._hangup_end)
        self._hangup_end = -1

    def close(self) -> None:
        for fd in (self.input, self._input_end, self.hangup, self._hangup_end):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.close()


@pytest.mark.parametrize("event", ["ask", "end_input"])
def test_a_question_is_noted_before_it_is_read(hook: Hook, event: str) -> None:
    """Should we be killed in between, the shim knows that Nix waits for an answer."""
    getattr(hook, event)()
    hook.caller.wait_for_input()
    assert hook.told == [State.QUESTION]
    hook.caller.wait_for_input()
    assert hook.told == [State.QUESTION]


def test_during_a_build_input_is_no_question(hook: Hook) -> None:
    """It is the list of inputs, and Nix is not waiting for an answer."""
    hook.caller.enter(State.BUILDING)
    hook.ask()
    hook.caller.wait_for_input()
    assert hook.told == [State.BUILDING]


def test_only_changes_are_told(hook: Hook) -> None:
    """Each one is a system call here and a process woken there."""
    for state in (State.ANSWERED, State.QUESTION, State.QUESTION, State.ANSWERED):
        hook.caller.enter(state)
    assert hook.told == [State.QUESTION, State.ANSWERED]


def test_a_dead_hook_asks_nothing(hook: Hook) -> None:
    """What it left in the pipe may already be somebody else's to read."""
    hook.ask()
    hook.die()
    with pytest.raises(Cancelled):
        hook.caller.wait_for_input()
    assert hook.told == []


def test_a_pause_ends_by_itself_or_with_the_hook(hook: Hook) -> None:
    """Also in the hook's own process, which has nobody to watch."""
    hook.caller.pause(0.001)
    Caller.of_this_process("3").pause(0.001)
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
    assert Caller.of_this_process("3").sees(str(tmp_path))
