"""The broker's log as `nix-ferry log` shows it, over the end of a file."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from hook.cli.main import main
from hook.cli.status.log import Tail


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.log"


def test_the_end_may_begin_in_the_file_that_was_set_aside(path: Path) -> None:
    append(Path(f"{path}.1"), "1\n2\n3\n")
    append(path, "4\n5\n")
    assert Tail(str(path)).end(3) == ["3", "4", "5"]
    assert Tail(str(path)).end(0) == []
    assert Tail(str(path)).end(100) == ["1", "2", "3", "4", "5"]


def test_what_is_added_is_followed_line_by_line(path: Path) -> None:
    """Half a line is not shown before its end."""
    tail = Tail(str(path))
    assert tail.end(10) == []
    append(path, "1\n2")
    assert list(tail.more()) == ["1"]
    append(path, "2\n")
    assert list(tail.more()) == ["22"]
    assert list(tail.more()) == []


def test_a_new_file_is_followed_after_the_end_of_the_one_before(path: Path) -> None:
    """Nothing that was written before the change is lost."""
    append(path, "1\n")
    tail = Tail(str(path))
    assert tail.end(10) == ["1"]
    append(path, "2\n")
    os.replace(path, f"{path}.1")
    append(path, "3\n")
    assert list(tail.more()) == ["2", "3"]
    append(path, "4\n")
    assert list(tail.more()) == ["4"]


def test_the_command_shows_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing that a terminal would obey; no log yet is no error."""
    monkeypatch.setenv("NIX_STATE_DIR", str(path.parent))
    directory = path.parent / "nix-ferry"
    directory.mkdir(0o700)
    done = CliRunner().invoke(main, ["log"])
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"no broker has written '{directory}/broker.log' yet\n"
    append(directory / "broker.log", "first\n\x1b[2Jsecond\n")
    done = CliRunner().invoke(main, ["log", "-n", "1"])
    assert (done.exit_code, done.stdout) == (0, "\\x1b[2Jsecond\n")
