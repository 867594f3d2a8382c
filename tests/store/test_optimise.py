"""Sharing files: the same links as after Nix, and a tree in canonical form afterwards."""

import os
from pathlib import Path

import pytest

from hook.errors import StoreError
from hook.store.optimise import optimise_path
from tests.nixstore import NixStore, copy


@pytest.mark.lab
def test_links_are_those_that_nix_makes(tmp_path: Path) -> None:
    """Files and symlinks, executables apart from plain files, a top-level file, duplicates within and between paths."""
    source = NixStore(tmp_path / "source")
    source.build()
    stock, ours = (
        NixStore(tmp_path / name, names=source.store_dir, auto_optimise_store="true") for name in ("stock", "ours")
    )
    stock.run("nix", "copy", "--no-check-sigs", "--from", source.uri, "--to", stock.uri, *source.objects())
    opened, target = source.open(), ours.open()
    for path in source.objects():
        info = opened.database.path_infos([path]).get(path)
        assert info
        copy(opened, target, [info])
    opened.close()
    target.close()
    assert ours.files() == stock.files()
    assert max(links for *_, links in ours.files().values()) > 2
    ours.verify()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store directory with two identical objects in canonical form."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"content")
        for path, mode in ((tmp_path / name / "file", 0o444), (tmp_path / name, 0o555)):
            path.chmod(mode)
            os.utime(path, (1, 1))
    return tmp_path


def _optimise(store: Path, name: str, fsync: bool = False) -> None:
    optimise_path(str(store / name), str(store), fsync=fsync)


def _inode(path: Path) -> int:
    return path.lstat().st_ino


@pytest.mark.parametrize("fsync", [False, True])
def test_identical_files_become_one(store: Path, fsync: bool) -> None:
    """The directory a link was put into looks as if nothing had happened."""
    _optimise(store, "a", fsync)
    _optimise(store, "b", fsync)
    _optimise(store, "b", fsync)
    (link,) = (store / ".links").iterdir()
    assert _inode(store / "a" / "file") == _inode(store / "b" / "file") == _inode(link)
    for name in ("a", "b"):
        status = (store / name).stat()
        assert (status.st_mode & 0o7777, status.st_mtime) == (0o555, 1)
    assert sorted(path.name for path in store.iterdir()) == [".links", "a", "b"]


def test_a_file_somebody_wrote_to_is_shared_no_longer(store: Path) -> None:
    """Its entry has another size than its name says; the next identical file takes its place."""
    _optimise(store, "a")
    (link,) = (store / ".links").iterdir()
    link.chmod(0o644)
    link.write_bytes(b"something else")
    _optimise(store, "b")
    assert link.read_bytes() == b"content"
    assert _inode(link) == _inode(store / "b" / "file") != _inode(store / "a" / "file")


@pytest.mark.parametrize("refused", ["EMLINK", "ENOSPC", "ENOENT"])
@pytest.mark.parametrize("first", [True, False])
def test_a_refused_link_leaves_the_file(
    store: Path, monkeypatch: pytest.MonkeyPatch, refused: str, first: bool
) -> None:
    """A full directory index, 65,000 links to the empty file, a collector in between: sharing can wait."""
    import errno

    if not first:
        _optimise(store, "a")

    def link(source: str, target: str, **_: bool) -> None:
        raise OSError(getattr(errno, refused), "refused", source, None, target)

    monkeypatch.setattr(os, "link", link)
    _optimise(store, "b")
    assert (store / "b" / "file").read_bytes() == b"content"
    assert (store / "b").stat().st_mode & 0o7777 == 0o555


@pytest.mark.parametrize("call", ["link", "rename"])
def test_any_other_refusal_is_an_error(store: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """A dying disk must not pass for an economy; nothing temporary stays, and the directory is canonical again."""
    _optimise(store, "a")

    def fail(*_: object, **__: bool) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StoreError, match=f"cannot optimise '{store / 'b'}': .*Input/output error"):
        _optimise(store, "b")
    assert (store / "b").stat().st_mode & 0o7777 == 0o555
    assert sorted(path.name for path in store.iterdir()) == [".links", "a", "b"]
