"""Finding the Nix that started a hook; processes called `nix…` are copies of `sleep`."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hook.front.program import find_nix


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs `nix`, from a file that tests may replace."""
    program = tmp_path / "nix"
    shutil.copy(Path("/bin/sleep").resolve(), program)
    with subprocess.Popen([program, "60"]) as child:
        yield child
        child.kill()


def test_it_is_the_file_that_the_parent_runs(parent: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """By its own path, so that hooks of different parents use the same connections."""
    assert find_nix(parent.pid, {}) == str(tmp_path / "nix")


@pytest.mark.parametrize("replaced", [False, True])
def test_after_an_upgrade_it_is_still_the_one_that_runs(
    parent: subprocess.Popen[bytes], tmp_path: Path, replaced: bool
) -> None:
    """Another release may speak of other settings, and where nothing is left nothing can be started."""
    (tmp_path / "nix").unlink()
    if replaced:
        (tmp_path / "nix").write_text("another release")
    found = find_nix(parent.pid, {})
    assert found == f"/proc/{parent.pid}/exe"
    assert subprocess.run([found, "0"], check=False).returncode == 0


def test_a_process_of_another_user_is_not_believed(
    parent: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be called `nix` and have the number of a parent that has ended; a broker of root's would run it."""
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert find_nix(parent.pid, {"PATH": ""}) is None


def test_without_such_a_parent_it_is_the_one_in_the_callers_path(tmp_path: Path) -> None:
    """A program that only links to Nix, or a process in another namespace."""
    assert find_nix(os.getpid(), {"PATH": str(tmp_path)}) is None
    (tmp_path / "nix").write_text("")
    (tmp_path / "nix").chmod(0o755)
    assert find_nix(os.getpid(), {"PATH": str(tmp_path)}) == str(tmp_path / "nix")
