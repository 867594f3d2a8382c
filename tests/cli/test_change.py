"""A file that somebody else changes, too: nothing of theirs is lost, whenever they do it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hook.cli.change import TRIES, Change
from hook.cli.machine.machinesfile import addition, removal, replacement, taken_back
from hook.errors import FerryError
from tests.leaks import no_leaks


@pytest.fixture
def machines(tmp_path: Path) -> Path:
    path = tmp_path / "machines"
    path.write_text("# ours\nssh-ng://a\nssh-ng://b # the small one\n")
    return path


def add_above(path: Path) -> None:
    path.write_text("ssh-ng://new\n" + path.read_text())


CHANGES: dict[str, tuple[Callable[[str], Change], str]] = {
    "added": (
        lambda path: addition(path, "ssh-ng://c"),
        "ssh-ng://new\n# ours\nssh-ng://a\nssh-ng://b # the small one\nssh-ng://c\n",
    ),
    "replaced": (
        lambda path: replacement(f"{path}:3", "ssh-ng://b", "ssh-ng://b - - 2"),
        "ssh-ng://new\n# ours\nssh-ng://a\nssh-ng://b - - 2 # the small one\n",
    ),
    "removed": (
        lambda path: removal(f"{path}:2", "ssh-ng://a"),
        "ssh-ng://new\n# ours\nssh-ng://b # the small one\n",
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_others_write_after_the_look_stays(machines: Path, kind: str) -> None:
    """While a question is open for hours, or something is built to prove a machine."""
    make, expected = CHANGES[kind]
    change = make(str(machines))
    add_above(machines)
    assert change.make()
    assert machines.read_text() == expected


def test_what_others_write_in_the_last_moment_stays(machines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all is ready to be put in place."""
    change = addition(str(machines), "ssh-ng://c")

    def write_first(fd: int, sync: Callable[[int], None] = os.fsync) -> None:
        sync(fd)
        monkeypatch.undo()
        add_above(machines)

    monkeypatch.setattr(os, "fsync", write_first)
    with no_leaks():
        assert change.make()
    assert machines.read_text() == CHANGES["added"][1]
    assert list(machines.parent.iterdir()) == [machines]


def test_a_file_that_never_rests_is_left_alone(machines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded, as every retry."""
    monkeypatch.setattr(os, "fsync", lambda fd: add_above(machines))
    with pytest.raises(FerryError, match="somebody else does, again and again"):
        addition(str(machines), "ssh-ng://c").make()
    assert machines.read_text().count("ssh-ng://new") == TRIES
    assert "ssh-ng://c" not in machines.read_text()
    assert list(machines.parent.iterdir()) == [machines]


def test_a_machine_that_others_removed_is_not_changed(machines: Path) -> None:
    """Nor any other line, however short the file has become."""
    change = replacement(f"{machines}:3", "ssh-ng://b", "ssh-ng://b - - 2")
    machines.write_text("# ssh-ng://b\n")
    with pytest.raises(FerryError, match="'ssh-ng://b' is not in the file any more; try again"):
        change.make()
    assert machines.read_text() == "# ssh-ng://b\n"


@pytest.mark.parametrize("others", [False, True], ids=["alone", "others"])
@pytest.mark.parametrize("kind", ["added", "replaced"])
def test_what_was_written_is_taken_back_and_nothing_else(machines: Path, kind: str, others: bool) -> None:
    """A machine did not hold; an administrator has changed the file while it was proved."""
    before = machines.read_text()
    change = CHANGES[kind][0](str(machines))
    change.make()
    if others:
        add_above(machines)
    line, old = ("ssh-ng://c", None) if kind == "added" else ("ssh-ng://b - - 2", "ssh-ng://b")
    taken_back(change, line, old).make()
    assert machines.read_text() == ("ssh-ng://new\n" if others else "") + before


@pytest.mark.parametrize("others", [False, True], ids=["alone", "others"])
def test_a_file_that_was_made_for_it_goes_with_it(tmp_path: Path, others: bool) -> None:
    """Unless it has become the file of somebody else, too."""
    path = tmp_path / "machines"
    change = addition(str(path), "ssh-ng://c")
    change.make()
    if others:
        add_above(path)
    taken_back(change, "ssh-ng://c", None).make()
    assert path.exists() == others
    assert not others or path.read_text() == "ssh-ng://new\n"
