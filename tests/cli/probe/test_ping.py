"""How a machine that is looked at by hand may behave; that a machine which works is described is in tests/lab."""

import os
from pathlib import Path

import pytest

from hook.cli.probe.ping import answers
from hook.errors import Trouble
from hook.machines.builders import parse_machines
from hook.remote import child
from hook.remote.routes import Routes
from hook.store.location import find_store
from hook.values.settings import Settings
from tests.fakes import DAEMON_IN_URI

RELEASE = (2, 34)


@pytest.mark.parametrize(
    "behaviour", ["silent", "rant-query_valid_paths", "dribble-query_valid_paths", "dribble-add_temp_root"]
)
def test_a_machine_has_a_limited_time_whatever_it_says(
    behaviour: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One deadline for all questions: lines of a log do not put it off."""
    monkeypatch.setattr(child, "HANDSHAKE_S", 1.0)
    line = f"ssh-ng://localhost?remote-program={DAEMON_IN_URI}%20{behaviour}"
    machines, _ = parse_machines(line, default_system="x86_64-linux", release=RELEASE, read_file=str)
    routes = Routes(Settings({}), RELEASE, os.environ, str(tmp_path), os.getpid(), 5)
    (pong,) = answers(machines, routes, RELEASE, find_store(f"local?state={tmp_path}", {}))
    assert pong.error == "not ready after 1 s"
    assert pong.trouble is Trouble.TIMED_OUT
