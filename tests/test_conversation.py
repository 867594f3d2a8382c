"""Whatever goes wrong in a session ends in a line for the user, and in an answer if Nix waits for one."""

import os
from collections.abc import Iterator

import pytest

from hook import conversation, journal
from hook.caller import Caller, State
from hook.conversation import serve
from hook.errors import Cancelled, ConfigurationError, FerryError, RequestError
from hook.hub import new_hub


class Nix:
    """Reads what the hook says."""

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe()
        self.caller = Caller(-1, self._write_fd, -1, "3", {}, os.getpid())

    def heard(self) -> list[str]:
        os.close(self._write_fd)
        self._write_fd = -1
        return os.read(self._read_fd, 10_000).decode().splitlines()

    def go_away(self) -> None:
        os.close(self._read_fd)
        self._read_fd = -1

    def close(self) -> None:
        for fd in (self._read_fd, self._write_fd):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def nix() -> Iterator[Nix]:
    nix = Nix()
    yield nix
    nix.close()


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(journal, "log", lines.append)
    return lines


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception, state: State) -> None:
    """Make every session end in `error`, while Nix waits for what `state` says."""

    class Failing:
        def __init__(self, caller: Caller, hub: object) -> None:
            self._caller = caller

        def run(self) -> int:
            self._caller.enter(state)
            raise error

    monkeypatch.setattr(conversation, "Session", Failing)


ERRORS = [RequestError("cut off"), FerryError("no"), ConfigurationError("bad line"), KeyError("surprise")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_an_error_is_one_line_and_an_answer_if_one_is_due(
    nix: Nix, monkeypatch: pytest.MonkeyPatch, logged: list[str], error: Exception, state: State
) -> None:
    """A line that Nix does not wait for would be taken for the answer to its next question."""
    fail_with(monkeypatch, error, state)
    assert serve(nix.caller, new_hub(lasting=True)) == 1
    line, *answers = nix.heard()
    assert str(error) in line
    assert answers == (["# decline-permanently"] if state is State.QUESTION else [])


@pytest.mark.parametrize("lasting", [True, False])
def test_only_the_brokers_log_has_the_stack_trace(
    nix: Nix, monkeypatch: pytest.MonkeyPatch, logged: list[str], lasting: bool
) -> None:
    """Standard error of a lone hook belongs to Nix."""
    fail_with(monkeypatch, ZeroDivisionError("surprise"), State.BUILDING)
    serve(nix.caller, new_hub(lasting=lasting))
    assert "internal error in nix-ferry: ZeroDivisionError: surprise (test_conversation.py:" in nix.heard()[0]
    assert ["Traceback" in text for text in logged] == [True] * lasting


@pytest.mark.parametrize("error", [Cancelled("given up"), BrokenPipeError()], ids=["cancelled", "pipe"])
def test_when_nix_is_gone_nobody_is_told(
    nix: Nix, monkeypatch: pytest.MonkeyPatch, logged: list[str], error: Exception
) -> None:
    """Neither Nix nor the log: it happens all the time."""
    fail_with(monkeypatch, error, State.QUESTION)
    assert serve(nix.caller, new_hub(lasting=True)) == 1
    assert nix.heard() == []
    assert logged == []


def test_a_complaint_that_nobody_reads_is_no_error(nix: Nix) -> None:
    """Run by hand, and gone."""
    nix.caller.argument = "loud"
    nix.go_away()
    assert serve(nix.caller, new_hub(lasting=True)) == 1
