"""Machines that the user takes out of use: who sees it, for how long, and what is said."""

import os
from pathlib import Path

import pytest

from hook.errors import ConfigurationError
from hook.machines.builders import Machine, parse_machines
from hook.machines.disabled import Disabled


def machine(line: str) -> Machine:
    (found,), warnings = parse_machines(line, default_system="x86_64-linux", release=(2, 34), read_file=str)
    assert warnings == []
    return found


def test_it_is_seen_by_everybody_until_it_is_undone(tmp_path: Path) -> None:
    """By objects made before and after, as by other processes; whatever else stands in the line."""
    early = Disabled(str(tmp_path))
    assert early.since(machine("ssh-ng://b1")) is None
    assert Disabled(str(tmp_path)).add(machine("ssh-ng://b1 - - 4"))
    for each in (early, Disabled(str(tmp_path))):
        assert each.since(machine("ssh-ng://b1 - /key")) is not None
        assert each.since(machine("ssh://b1")) is None
    assert early.remove(machine("ssh-ng://b1"))
    assert Disabled(str(tmp_path)).reason(machine("ssh-ng://b1")) is None


def test_the_first_time_counts(tmp_path: Path) -> None:
    """Who disables it again learns that it was, and does not hide since when."""
    disabled, b1 = Disabled(str(tmp_path)), machine("b1?compress=true")
    assert disabled.add(b1)
    (file,) = (tmp_path / "disabled").iterdir()
    os.utime(file, (86400, 86400))
    assert not disabled.add(b1)
    assert disabled.since(b1) == 86400
    assert disabled.remove(b1)
    assert not disabled.remove(b1)


def test_the_reason_has_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disabled, b1 = Disabled(str(tmp_path)), machine("ssh-ng://b1")
    disabled.add(b1)
    (file,) = (tmp_path / "disabled").iterdir()
    monkeypatch.setattr("time.localtime", __import__("time").gmtime)
    os.utime(file, (1763906580, 1763906580))
    assert disabled.reason(b1) == "disabled by the user since 2025-11-23 14:03"


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A name too long for a file, or a directory that is none."""
    long = machine(f"ssh-ng://{'b' * 300}")
    assert Disabled(str(tmp_path)).since(long) is None
    with pytest.raises(ConfigurationError, match="File name too long"):
        Disabled(str(tmp_path)).add(long)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="File exists"):
        Disabled(str(tmp_path / "file")).add(machine("b1"))
