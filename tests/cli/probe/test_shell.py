"""A machine that is asked by a shell can neither fill our memory nor keep us waiting."""

import itertools
import os
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest

from hook.cli.probe import shell
from hook.cli.probe.shell import run
from hook.errors import MachineError


def said(*argv: str, script: str = "", timeout_s: float = 30) -> "subprocess.CompletedProcess[str]":
    return run(argv, os.environ, script, "box", timeout_s)


def test_a_script_is_run_and_all_that_it_says_is_heard() -> None:
    done = said("sh", script="echo one; echo two >&2; printf '\\377'; exit 3\n")
    assert (done.returncode, done.stdout, done.stderr) == (3, "one\n\ufffd", "two\n")


def test_a_command_that_reads_nothing_is_no_error() -> None:
    assert said("true", script="x" * 4096).returncode == 0


@pytest.mark.parametrize("redirect", ["", " >&2"])
def test_one_that_talks_without_an_end_is_not_listened_to(redirect: str) -> None:
    with pytest.raises(MachineError, match="'box' says more than 1 MiB where a few lines are expected"):
        said("sh", "-c", f"yes{redirect}")


def test_one_that_does_not_end_is_ended() -> None:
    start = time.monotonic()
    with pytest.raises(MachineError, match=r"'box' did not answer within 0\.1 s"):
        said("sleep", "1000", timeout_s=0.1)
    assert time.monotonic() - start < 60


def test_one_that_has_said_everything_is_ended_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its outputs may end one after the other, each in its own time; when both have, none is left.
    clock = itertools.count(0, 20)
    monkeypatch.setattr(shell, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert said("sh", "-c", "exec >&- 2>&-; exec sleep 1000", timeout_s=60).returncode == -signal.SIGKILL


def test_what_is_no_program_is_an_error() -> None:
    with pytest.raises(OSError, match="No such file"):
        said("/nonexistent/ssh")
