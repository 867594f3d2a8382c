"""`nix-ferry machine drain --wait`, however the waiting ends; tests/lab/test_machine.py has it with real builds."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import nix as fake_nix

NIX_FERRY = Path(sys.executable).with_name("nix-ferry")
MACHINE = "ssh-ng://fast-box"
BUILDERS = ("--option", "builders", f"{MACHINE} - - 2")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A host whose Nix is a script."""
    (tmp_path / "nix").write_text(f'#!/bin/sh\nexec {sys.executable} -S {fake_nix.__file__} "$@"\n')
    (tmp_path / "nix").chmod(0o755)
    return {
        "HOME": str(tmp_path),
        "NIX_CONF_DIR": str(tmp_path),
        "NIX_STATE_DIR": str(tmp_path),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "RELEASE": "2.34.8",
    }


@pytest.fixture
def drain(environ: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The command while it waits for a build, whose slot is held here."""
    (tmp_path / "current-load").mkdir()
    with (tmp_path / "current-load" / "ssh-ng:__fast-box-1").open("w") as slot:
        fcntl.flock(slot, fcntl.LOCK_EX)
        command = [NIX_FERRY, "machine", "drain", "--wait", MACHINE, *BUILDERS]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=environ, stdout=pipe, stderr=pipe, text=True) as child:
            try:
                assert child.stdout is not None
                assert child.stdout.readline().startswith(f"'{MACHINE}' is disabled by the user since 2")
                assert child.stdout.readline() == "1 build is running there\n"
                yield child
            finally:
                child.kill()


def enable(environ: dict[str, str]) -> str:
    command = [NIX_FERRY, "machine", "enable", MACHINE, *BUILDERS]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout


def test_a_machine_that_is_enabled_meanwhile_ends_the_wait(
    drain: subprocess.Popen[str], environ: dict[str, str]
) -> None:
    """It may get builds for ever."""
    assert enable(environ) == f"'{MACHINE}' is enabled\n"
    said = drain.communicate(timeout=60)
    assert said == ("", f"error: '{MACHINE}' was enabled again; not waiting any longer\n")
    assert drain.returncode == 1


def test_ctrl_c_ends_the_wait_and_nothing_else(drain: subprocess.Popen[str], environ: dict[str, str]) -> None:
    """One line; the machine stays disabled."""
    drain.send_signal(signal.SIGINT)
    assert drain.communicate(timeout=60) == ("", "error: not waiting any longer; what was disabled stays so\n")
    assert drain.returncode == 1
    assert enable(environ) == f"'{MACHINE}' is enabled\n"
