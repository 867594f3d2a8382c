"""How a machine is logged in to for the first time; with a real sshd in tests/lab/test_add.py."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from hook.cli.machine import login
from hook.cli.machine.login import Login
from hook.errors import MachineError
from tests.machines.test_schedule import machine


def test_a_temporary_directory_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ssh takes words and percent signs for its own; what it makes of them, it says itself."""
    directory = tmp_path / "a b%h"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    asked: list[str] = []

    def run(argv: list[str], *_: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*argv[: argv.index("--")], "-G"], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
        )
        asked.extend(line.partition(" ")[2] for line in done.stdout.splitlines() if line.startswith("userknownhosts"))
        return subprocess.CompletedProcess(argv, 255, "", "")

    monkeypatch.setattr(login, "run", run)
    with pytest.raises(MachineError):
        Login(machine("ssh://b1"), os.environ, str(tmp_path), 5).host_key()
    (file,) = asked
    assert file.replace("%%", "%").startswith(f"{directory}/nix-ferry-")
    assert file.endswith("/known_hosts")
