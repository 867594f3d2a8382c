"""A notice is for the user's command, and a command starts many hooks."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from hook.front import notices as notices_module
from hook.front.notices import KEPT_S, Notices


def test_a_text_is_new_once_for_a_command_and_once_for_the_next(tmp_path: Path) -> None:
    """Two hooks of one command, then a hook of another."""
    with subprocess.Popen(["sleep", "60"]) as other:
        assert Notices(str(tmp_path), os.getpid()).first_time("bad line")
        assert not Notices(str(tmp_path), os.getpid()).first_time("bad line")
        assert Notices(str(tmp_path), os.getpid()).first_time("other line")
        assert Notices(str(tmp_path), other.pid).first_time("bad line")
        other.kill()


def test_yesterdays_notices_are_removed(tmp_path: Path) -> None:
    """The directory must not grow with every command ever run."""
    notices = Notices(str(tmp_path), os.getpid())
    notices.first_time("old")
    (stale,) = (tmp_path / "notices").iterdir()
    os.utime(stale, (1, 1))
    assert KEPT_S > 0
    notices.first_time("young")
    assert stale not in (tmp_path / "notices").iterdir()


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine says may be something else each time."""
    monkeypatch.setattr(notices_module, "MOST_KEPT", 10)
    notices = Notices(str(tmp_path), os.getpid())
    assert all(notices.first_time(f"text {number}") for number in range(50))
    assert len(list((tmp_path / "notices").iterdir())) == 10


def test_a_directory_that_cannot_be_written_only_repeats_the_notice(tmp_path: Path) -> None:
    """Saying it twice is better than not saying it, or failing the build."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert Notices(str(blocked), os.getpid()).first_time("bad line")
    assert Notices(str(blocked), os.getpid()).first_time("bad line")


def test_a_reminder_is_due_after_its_time(tmp_path: Path) -> None:
    """And then once more, not from then on always."""
    notices = Notices(str(tmp_path), os.getpid())
    assert notices.first_time("down", 60)
    assert not notices.first_time("down", 60)
    (file,) = (tmp_path / "notices").iterdir()
    minute_ago = time.time() - 61
    os.utime(file, (minute_ago, minute_ago))
    assert notices.first_time("down", 60)
    assert not notices.first_time("down", 60)
