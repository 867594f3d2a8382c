"""Who holds a lock file, found without taking the lock."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from hook.cli.doctor.holders import holders, slot_holders

HOLD = "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); input()"


def test_a_file_that_another_process_has_locked_is_told_with_it(tmp_path: Path) -> None:
    """And no other: neither one that is free, nor one of the same name elsewhere."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    for name in ("here/busy", "here/free", "there/busy"):
        (tmp_path / name).touch()
    script = tmp_path / "nix-builder"
    script.write_text(HOLD)
    command = [sys.executable, str(script), str(tmp_path / "here/busy")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert holders(str(tmp_path / "here")) == {"busy": f"process {child.pid}, nix-builder busy"}
        assert holders(str(tmp_path / "there")) == {}
        child.communicate(b"\n")
    assert holders(str(tmp_path / "here")) == {}


def test_looking_takes_no_lock(tmp_path: Path) -> None:
    """A hook that tries at that moment would pass the slot over."""
    with (tmp_path / "slot").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (words,) = holders(str(tmp_path)).values()
        assert words.startswith(f"process {os.getpid()}, ")


def test_without_the_directory_nothing_is_held(tmp_path: Path) -> None:
    assert holders(str(tmp_path / "none")) == {}


def test_slots_of_one_machine_are_told_from_others_however_many_it_has() -> None:
    """Four thousand million would take an hour to go through."""
    held = {"m-0": "a", "m-7": "b", "m-x": "c", "m-1-2": "d", "mm-0": "e", "main-lock": "f", "m-4294967294": "g"}
    assert slot_holders(held, "m", (1 << 32) - 1) == ["a", "b", "g"]
    assert slot_holders(held, "m", 7) == ["a"]
    assert slot_holders(held, "m", 0) == []
    assert slot_holders(held, "m-1", 3) == ["d"]
