"""What is left over, next to what only looks so; and who holds the locks for uploads."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hook.cli.doctor.check import Check, Level
from hook.cli.doctor.leftovers import MOST_NAMES, check_leftovers, check_upload_locks
from hook.machines.disabled import Disabled
from hook.machines.slots import upload_lock_names
from tests.cli.doctor.test_holders import HOLD
from tests.machines.test_schedule import NEW, machine

BOX, GONE = machine("ssh-ng://box - - 4"), machine("ssh-ng://gone")


@pytest.fixture
def current_load(tmp_path: Path) -> Path:
    directory = tmp_path / "current-load"
    directory.mkdir()
    return directory


def leftovers(root: Path) -> Check:
    return check_leftovers(str(root), str(root / "private"), str(root / "tmp"), [BOX], NEW)


def dead_pid() -> int:
    with subprocess.Popen(["true"]) as child:
        pass
    return child.pid


def test_what_is_in_use_is_not_left_over(tmp_path: Path, current_load: Path) -> None:
    """Lock files stay for good; those of processes that live are theirs."""
    assert leftovers(tmp_path) == Check("leftovers", Level.OK, "none")
    for name in ("main-lock", "ssh-ng:__box-0", "ssh-ng:__box-7", *upload_lock_names("ssh-ng://box")):
        (current_load / name).touch()
    Disabled(str(tmp_path / "private")).add(BOX)
    for name in ("private/known-hosts", "private/ssh", f"tmp/nix-{os.getpid()}-0", f"tmp/nix-{dead_pid()}-build"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "private/known-hosts/0123").touch()
    (tmp_path / f"tmp/nix-{os.getpid()}-0/host-key").touch()
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(tmp_path / "private/ssh/0-1"))
        alive.listen(0)
        for _ in range(3):
            assert leftovers(tmp_path) == Check("leftovers", Level.OK, "none")


@pytest.mark.parametrize(
    "name",
    [
        "current-load/ssh-ng:__gone-0",
        f"current-load/{upload_lock_names('ssh-ng://gone')[0]}",
        "private/disabled/ssh-ng:__gone",
        "private/known-hosts/tmpabcdef",
        "private/ssh/0123abcd-1",
        "private/ssh/0123abcd-1.0123456789abcdef",
        "tmp/nix-PID-0/host-key",
    ],
)
def test_what_nobody_needs_is_found(tmp_path: Path, name: str) -> None:
    file = tmp_path / name.replace("PID", str(dead_pid()))
    file.parent.mkdir(parents=True)
    file.touch()
    found = leftovers(tmp_path)
    left = file.parent if file.name == "host-key" else file
    assert (found.level, found.text.endswith(f": '{left}'")) == (Level.NOTE, True)


def test_only_some_are_named(tmp_path: Path, current_load: Path) -> None:
    for number in range(MOST_NAMES + 2):
        (current_load / f"ssh-ng:__gone-{number}").touch()
    assert leftovers(tmp_path).text.endswith("-2' and 2 more")


@pytest.mark.parametrize(("program", "level"), [("nix-ferry-hook", Level.OK), ("sleeper", Level.NOTE)])
def test_who_uploads_is_told(tmp_path: Path, current_load: Path, program: str, level: Level) -> None:
    """Something that is no hook holds the lock for no good."""
    assert check_upload_locks(str(tmp_path), [BOX], NEW).text == "no hook keeps others from uploading"
    lock = current_load / upload_lock_names("ssh-ng://box")[0]
    lock.touch()
    (tmp_path / program).write_text(HOLD)
    command = [sys.executable, str(tmp_path / program), str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = check_upload_locks(str(tmp_path), [GONE, BOX], NEW)
        child.communicate(b"\n")
    assert found.level is level
    assert found.text == f"that to 'ssh-ng://box' is held by process {child.pid}, {program} {lock.name}"
    assert found.fix.startswith(f"end process {child.pid}") is (level is Level.NOTE)
