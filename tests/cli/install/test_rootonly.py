"""Which files root alone can change: the whole way there counts.  Run as root, whose files these are."""

import os
from pathlib import Path

import pytest

from hook.cli.install.rootonly import only_root_changes

NOBODY = 65534


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a file in it, all root's."""
    directory = tmp_path / "a" / "b"
    directory.mkdir(parents=True)
    (directory / "file").write_text("")
    return directory


def test_what_is_roots_all_the_way_is(place: Path) -> None:
    assert only_root_changes(str(place / "file"))
    assert only_root_changes(str(place))
    assert only_root_changes(str(place / "missing" / "too"))


@pytest.mark.parametrize("part", ["file", "", ".."])
@pytest.mark.parametrize("how", ["owner", "group", "others"])
def test_anybody_else_on_the_way_is_enough(place: Path, part: str, how: str) -> None:
    """The file itself, its directory, or one further up."""
    changed = (place / part).resolve()
    if how == "owner":
        os.chown(changed, NOBODY, -1)
    else:
        changed.chmod(changed.stat().st_mode | (0o020 if how == "group" else 0o002))
    assert not only_root_changes(str(place / "file"))


def test_where_others_may_only_add_what_is_there_is_roots(place: Path) -> None:
    """As in /tmp: an entry of root's cannot be replaced, a missing one can be made by anybody."""
    place.chmod(0o1777)
    assert only_root_changes(str(place / "file"))
    assert not only_root_changes(str(place / "missing"))
    assert not only_root_changes(str(place / "missing" / "too"))


def test_a_link_is_followed(place: Path) -> None:
    """Both the link and where it leads have to be root's."""
    elsewhere = place.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "real").write_text("")
    (place / "link").symlink_to(elsewhere / "real")
    assert only_root_changes(str(place / "link"))
    os.chown(elsewhere, NOBODY, -1)
    assert not only_root_changes(str(place / "link"))
    os.chown(elsewhere, 0, -1)
    os.chown(place / "link", NOBODY, -1, follow_symlinks=False)
    assert not only_root_changes(str(place / "link"))


def test_a_relative_path_is_nobodys() -> None:
    """Which file it means depends on who reads it."""
    assert not only_root_changes("etc/nix")
    assert not only_root_changes("")
