"""The process that passes on Nix's words once its own hook answers: it keeps nothing, and ends with that hook.

Each of its three safeguards alone, since two of them hide each other: without both, Nix waits for the end of a pipe.
"""

import os
import signal
from pathlib import Path

import pytest

from tests.fakes.shims import Bin, FakeBroker, Hook, Nix, message
from tests.lab.host import wait_until

WAITING = """#!/bin/sh
cat > "$STATE/stock.stdin"
"""
"""Nix's own hook, which waits for more to be said."""


def feeder_of(hook: Hook) -> Path:
    """What /proc tells of the process that passes on Nix's words to `hook`."""
    children = Path(f"/proc/{hook.process.pid}/task/{hook.process.pid}/children").read_text().split()
    found = [child for child in children if Path(f"/proc/{child}/comm").read_text().startswith("nix-ferry-hook")]
    assert len(found) == 1
    return Path(f"/proc/{found[0]}")


@pytest.fixture
def hook(nix: Nix, broker: FakeBroker, programs: Bin) -> Hook:
    """One that Nix's own hook has taken over; SIGPIPE was ignored where it was started."""
    programs.script("nix", WAITING)
    running = nix.start(before="trap '' PIPE;")
    server = broker.serve()
    running.send(b"question")
    assert server.hear(8) == b"question"
    server.say(message("s"))
    server.die()
    # By then it has let go of everything that it does not need.
    passed_on = programs.state / "stock.stdin"
    wait_until(lambda: passed_on.exists() and passed_on.read_bytes() == b"question", "Nix's own hook")
    return running


def test_it_has_nothing_but_what_it_reads_and_writes(hook: Hook) -> None:
    """Nix takes a hook for ended when nobody has the pipes any more that it was given."""
    assert sorted(os.listdir(feeder_of(hook) / "fd"), key=int) == ["0", "1"]


def test_a_reader_that_ends_is_its_end(hook: Hook) -> None:
    """It must not go on reading for nobody, as it would where SIGPIPE is ignored."""
    (ignored,) = [line for line in (feeder_of(hook) / "status").read_text().splitlines() if line.startswith("SigIgn:")]
    assert not int(ignored.split()[1], 16) & 1 << signal.SIGPIPE - 1


def test_it_ends_with_the_hook(hook: Hook) -> None:
    """Also where Nix says nothing more for long: a hook that was killed leaves nobody behind."""
    feeder = feeder_of(hook)
    hook.process.kill()
    hook.process.wait()
    wait_until(lambda: not feeder.exists(), "the end of what fed it")
