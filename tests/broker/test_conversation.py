"""Whatever goes wrong in a session ends in a line for the user, and before an accept with the stock hook."""

import os
from collections.abc import Iterator

import pytest

from hook.broker import conversation
from hook.broker import log as journal
from hook.broker.conversation import serve
from hook.errors import Cancelled, ConfigurationError, FerryError, RequestError
from hook.front.caller import Caller, Word
from hook.session.hub import new_hub


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


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception, *, accepted: bool) -> None:
    """Make every session end in `error`, before or after it has accepted a build."""

    class Failing:
        def __init__(self, caller: Caller, hub: object) -> None:
            self._caller = caller

        def run(self) -> int:
            self._caller.accepted = accepted
            raise error

    monkeypatch.setattr(conversation, "Session", Failing)


ERRORS = [RequestError("cut off"), FerryError("no"), ConfigurationError("bad line"), KeyError("surprise")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_before_the_accept_leaves_the_answer_to_the_stock_hook(
    nix: Nix, monkeypatch: pytest.MonkeyPatch, logged: list[str], error: Exception
) -> None:
    """One line says why; the answer is not ours to give any more."""
    fail_with(monkeypatch, error, accepted=False)
    serve(nix.caller, new_hub(lasting=True))
    (line,) = nix.heard()
    assert "warning:" in line
    assert str(error) in line
    assert line.endswith('; the stock build hook answers instead"}')
    assert nix.caller.successor is Word.STOCK


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_after_the_accept_is_one_line(
    nix: Nix, monkeypatch: pytest.MonkeyPatch, logged: list[str], error: Exception
) -> None:
    """Nobody else can build it now."""
    fail_with(monkeypatch, error, accepted=True)
    assert serve(nix.caller, new_hub(lasting=True)) == 1
    (line,) = nix.heard()
    assert "error:" in line
    assert str(error) in line
    assert nix.caller.successor is None


@pytest.mark.parametrize("lasting", [True, False])
def test_only_the_brokers_log_has_the_stack_trace(
    nix: Nix, monkeypatch: pytest.MonkeyPatch, logged: list[str], lasting: bool
) -> None:
    """Standard error of a lone hook belongs to Nix."""
    fail_with(monkeypatch, ZeroDivisionError("surprise"), accepted=True)
    serve(nix.caller, new_hub(lasting=lasting))
    assert "internal error in nix-ferry: ZeroDivisionError: surprise (test_conversation.py:" in nix.heard()[0]
    assert ["Traceback" in text for text in logged] == [True] * lasting


@pytest.mark.parametrize("error", [Cancelled("given up"), BrokenPipeError()], ids=["cancelled", "pipe"])
def test_when_nix_is_gone_nobody_is_told(
    nix: Nix, monkeypatch: pytest.MonkeyPatch, logged: list[str], error: Exception
) -> None:
    """Neither Nix nor the log: it happens all the time."""
    fail_with(monkeypatch, error, accepted=False)
    assert serve(nix.caller, new_hub(lasting=True)) == 1
    assert nix.heard() == []
    assert nix.caller.successor is None
    assert logged == []


def test_a_complaint_that_nobody_reads_is_no_error(nix: Nix) -> None:
    """Run by hand, and gone."""
    nix.caller.argument = "loud"
    nix.go_away()
    assert serve(nix.caller, new_hub(lasting=True)) == 1
