"""Changing a file of `builders`: what is not meant stays, byte by byte, and what results is read as Nix reads it."""

from pathlib import Path

import pytest

from hook.cli.machine.machinesfile import (
    addition,
    file_of,
    place_of,
    refuse_made,
    removal,
    replacement,
    with_line,
    with_replaced,
    without,
)
from hook.errors import FerryError
from hook.machines.builders import Machine, parse_machines

FILE = """\
# Our machines; keep them sorted
ssh-ng://a x86_64-linux - 4   # the old one

  ssh-ng://b ; ssh-ng://c - - 2;ssh-ng://d  # three of them
ssh-ng://e\r
"""


def machines(text: str) -> list[Machine]:
    found, warnings = parse_machines(
        "@file", default_system="x86_64-linux", release=(2, 34), read_file=lambda path: text
    )
    assert warnings == []
    return found


def names(text: str) -> list[str]:
    return [machine.uri.host for machine in machines(text)]


@pytest.mark.parametrize("name", "abcde")
def test_one_machine_is_removed_and_nothing_else(name: str) -> None:
    (gone,) = (machine for machine in machines(FILE) if machine.uri.host == name)
    _, number = place_of(gone.origin)
    text = without(FILE, number, gone.text)
    assert names(text) == [each for each in "abcde" if each != name]
    assert text.startswith("# Our machines; keep them sorted\n")
    assert ("# the old one" in text) == (name != "a")
    assert text.count("\n") == FILE.count("\n") - (name in "ae")
    assert "# three of them" in text


@pytest.mark.parametrize("name", "abcde")
def test_one_machine_is_replaced_and_nothing_else(name: str) -> None:
    (old,) = (machine for machine in machines(FILE) if machine.uri.host == name)
    _, number = place_of(old.origin)
    text = with_replaced(FILE, number, old.text, "ssh://new - - 9")
    assert names(text) == [each if each != name else "new" for each in "abcde"]
    assert text.replace("ssh://new - - 9", old.text) == FILE


def test_the_last_machine_of_a_line_leaves_its_comment() -> None:
    assert without("ssh-ng://a # about b ; ssh-ng://b\n", 1, "ssh-ng://a") == ""
    assert without("ssh-ng://a ; ssh-ng://b # both\n", 1, "ssh-ng://b") == "ssh-ng://a # both\n"


def test_only_whole_machines_are_found() -> None:
    """One name may be part of another."""
    text = "ssh-ng://ab - - 1 ; ssh-ng://a - - 1 ; ssh-ng://a\n"
    assert without(text, 1, "ssh-ng://a") == "ssh-ng://ab - - 1 ; ssh-ng://a - - 1\n"


def test_a_file_that_changed_meanwhile_is_left_alone() -> None:
    with pytest.raises(FerryError, match="try again"):
        without("ssh-ng://other\n", 1, "ssh-ng://a")


@pytest.mark.parametrize(("text", "result"), [("", "b\n"), ("a\n", "a\nb\n"), ("a", "a\nb\n"), ("# c", "# c\nb\n")])
def test_a_line_is_added_at_the_end(text: str, result: str) -> None:
    assert with_line(text, "b") == result


@pytest.mark.parametrize(
    ("builders", "path"),
    [
        ("@/etc/nix/machines", "/etc/nix/machines"),
        ("ssh-ng://a ; @ /my machines # mine\n@/other", "/my machines"),
        ("ssh-ng://a@b", None),
        ("", None),
    ],
)
def test_the_file_that_builders_names(builders: str, path: str | None) -> None:
    assert file_of(builders) == path


def test_a_machine_of_the_setting_itself_has_no_place() -> None:
    with pytest.raises(FerryError, match="in 'builders' itself"):
        place_of("builders")


def test_a_file_of_nixos_is_left_alone(tmp_path: Path) -> None:
    link = tmp_path / "machines"
    refuse_made(str(link))
    link.symlink_to("/nix/store/00000000000000000000000000000000-machines")
    with pytest.raises(FerryError, match=r"nix\.buildMachines"):
        refuse_made(str(link))


def test_changes_are_of_what_the_file_says_now(tmp_path: Path) -> None:
    """A file that is not there yet is made."""
    path = tmp_path / "machines"
    addition(str(path), "ssh-ng://a").make()
    addition(str(path), "ssh-ng://b").make()
    replacement(f"{path}:1", "ssh-ng://a", "ssh-ng://c - - 2").make()
    assert path.read_text() == "ssh-ng://c - - 2\nssh-ng://b\n"
    removal(f"{path}:2", "ssh-ng://b").make()
    assert path.read_text() == "ssh-ng://c - - 2\n"
