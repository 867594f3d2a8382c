"""Removal: everything below a path, whatever its modes and depth, and nothing else."""

import os
import resource
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hook.errors import StoreError
from hook.store.remove import remove_tree
from tests.leaks import descriptors, no_leaks

NOBODY = 65534


def test_nothing_there_is_fine(tmp_path: Path) -> None:
    """Most outputs have no leftover."""
    remove_tree(str(tmp_path / "absent"))


@pytest.mark.parametrize("kind", ["file", "symlink", "dangling", "fifo", "directory"])
def test_anything_can_be_removed(tmp_path: Path, kind: str) -> None:
    """A leftover need not be a store object at all."""
    target = tmp_path / "target"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    match kind:
        case "file":
            target.touch(0o400)
        case "symlink":
            target.symlink_to(elsewhere)
        case "dangling":
            target.symlink_to("nowhere")
        case "fifo":
            os.mkfifo(target)
        case "directory":
            target.mkdir()
    remove_tree(str(target))
    assert not os.path.lexists(target)
    assert (elsewhere / "kept").exists()


def test_symlinks_within_are_removed_and_not_followed(tmp_path: Path) -> None:
    """A builder's tree may link to anything, with any owner."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(0o555)
    (tmp_path / "kept").touch(0o444)
    target = tmp_path / "target"
    (target / "sub").mkdir(parents=True)
    (target / "sub" / "directory").symlink_to(elsewhere)
    (target / "sub" / "file").symlink_to(tmp_path / "kept")
    remove_tree(str(target))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "kept"]
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o555


def _protected_tree(target: Path) -> None:
    for n in range(3):
        (target / f"sub{n}" / "deeper").mkdir(parents=True)
        (target / f"sub{n}" / "file").touch(0o444)
        (target / f"sub{n}" / "deeper").chmod(0o000)
        (target / f"sub{n}").chmod(0o555)
    target.chmod(0o555)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A directory of our own, where we lack root's power to ignore modes."""
    user = os.geteuid()
    directory = tempfile.mkdtemp()
    os.chown(directory, NOBODY if user == 0 else user, -1)
    if user == 0:
        os.seteuid(NOBODY)
    yield Path(directory)
    os.seteuid(user)
    remove_tree(directory)


def test_read_only_directories_are_no_obstacle(unprivileged: Path) -> None:
    """A finished store object is read-only, and so is what a killed import leaves."""
    target = unprivileged / "target"
    _protected_tree(target)
    remove_tree(str(target))
    assert os.listdir(unprivileged) == []


def test_a_directory_that_becomes_a_link_has_nothing_else_opened(
    unprivileged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the chmod, by a builder that is still there."""
    target, other = unprivileged / "target", unprivileged / "other"
    for directory in (target, other):
        directory.mkdir(0o500)
    target.chmod(0)
    real_open = os.open

    def swapped(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        try:
            return real_open(path, flags, mode, dir_fd=dir_fd)
        except PermissionError:
            monkeypatch.undo()
            target.rmdir()
            target.symlink_to(other)
            raise

    monkeypatch.setattr(os, "open", swapped)
    with no_leaks(), pytest.raises(StoreError, match=f"^cannot remove '{target}': "):
        remove_tree(str(target))
    assert other.stat().st_mode & 0o777 == 0o500


def test_what_cannot_be_removed_is_an_error_with_the_path(unprivileged: Path) -> None:
    """Not silently half removed: the restore would only fail later, with a message about something else."""
    target = unprivileged / "target"
    target.touch()
    unprivileged.chmod(0o555)
    with pytest.raises(StoreError, match=f"^cannot remove '{target}': Permission denied$"):
        remove_tree(str(target))
    unprivileged.chmod(0o755)


def test_depth_and_width_have_no_limit(tmp_path: Path) -> None:
    """Deeper than Python recurses, than we may have files open here, and than a path may be long."""
    target = tmp_path / "target"
    target.mkdir()
    here = os.open(target, os.O_RDONLY)
    for _ in range(5000):
        for name in ("deeper", "beside"):
            os.mkdir(name, dir_fd=here)
        below = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    for n in range(2000):
        (target / f"file{n}").touch()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(descriptors()) + 50, hard))
    try:
        with no_leaks():
            remove_tree(str(target))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not target.exists()
