"""Path locks: one holder at a time, among ourselves and with Nix."""

import fcntl
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hook.errors import Cancelled, StoreError
from hook.store.pathlocks import locked
from tests.lab.host import wait_until
from tests.leaks import no_leaks
from tests.nixstore import NixStore

SLOW = """
derivation {
  name = "slow"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  args = [ "-ec" "echo > @started@; cat @finish@ > $out" ];
}
"""


def never(path: str) -> None:
    raise AssertionError(f"waited for {path}")


def is_awaited(lock: Path) -> bool:
    """Whether somebody is queueing for a lock on this file."""
    inode = str(lock.stat().st_ino)
    waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" in line]
    return any(fields[6].split(":")[-1] == inode for fields in waiting)


def test_locks_are_held_inside_and_gone_afterwards(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("b", "a")]
    with locked(paths, never):
        for path in paths:
            with open(f"{path}.lock") as other, pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert os.stat(f"{paths[0]}.lock").st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == []


def test_a_file_deleted_between_open_and_lock_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The byte in it says that it is gone; who locked it must lock the file that took its place."""
    lock = tmp_path / "p.lock"
    real_flock = fcntl.flock
    deletions = 1

    def flock(fd: int, operation: int) -> None:
        nonlocal deletions
        if deletions:
            deletions -= 1
            lock.unlink()
            os.write(fd, b"d")
        real_flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    told: list[str] = []
    with locked([str(tmp_path / "p")], told.append, pause=lambda _: None):
        assert lock.exists()
        assert lock.stat().st_size == 0
        with lock.open() as other, pytest.raises(BlockingIOError):
            real_flock(other.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert deletions == 0


def test_a_wait_has_an_end_and_leaves_the_other_locks_free(tmp_path: Path) -> None:
    """Whoever holds it may be stuck; its name tells whom to look for."""
    paths = [str(tmp_path / name) for name in ("a", "b")]
    with open(f"{paths[1]}.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with (
            pytest.raises(StoreError, match=f"cannot lock '{paths[1]}'"),
            locked(paths, lambda _: None, patience_s=0),
        ):
            raise AssertionError("locked by two")
    assert not os.path.exists(f"{paths[0]}.lock")
    with locked(paths, never):
        pass


def test_a_wait_that_is_broken_off_leaves_the_other_locks_free(tmp_path: Path) -> None:
    """As when Nix gives a build up; nobody else must wait for what nobody wants any more."""
    paths = [str(tmp_path / name) for name in ("a", "b")]

    def give_up(_: float) -> None:
        raise Cancelled("Nix has given up this build")

    with open(f"{paths[1]}.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Cancelled), locked(paths, lambda _: None, pause=give_up):
            pass
    with locked(paths, never):
        pass


def test_a_lock_that_cannot_be_made_is_an_error_with_its_path(tmp_path: Path) -> None:
    path = str(tmp_path / "missing" / "p")
    with pytest.raises(StoreError, match=f"cannot lock '{path}': No such file or directory"), locked([path], never):
        pass


LAID: dict[str, Callable[[Path, Path], object]] = {
    "link": lambda lock, other: lock.symlink_to(other),
    "link-to-a-file": lambda lock, other: (other.touch(), lock.symlink_to(other)),
    "name-of-another-file": lambda lock, other: (other.touch(), os.link(other, lock)),
    "fifo": lambda lock, other: os.mkfifo(lock),
    "socket": lambda lock, other: os.mknod(lock, stat.S_IFSOCK | 0o600),
    "directory": lambda lock, other: lock.mkdir(),
}
"""What a builder without a sandbox may lay where our lock is to be: anybody of its group can write to the store."""


@pytest.mark.parametrize("kind", LAID)
def test_what_a_builder_laid_there_is_named_and_not_followed(kind: str, tmp_path: Path) -> None:
    """Root would make a file elsewhere, or write to one; in the store, who wrote it can remove it."""
    lock, other = tmp_path / "p.lock", tmp_path / "other"
    LAID[kind](lock, other)
    before = other.exists()
    expected = f"^cannot lock '{tmp_path}/p': '{lock}' is not a lock file of Nix; remove it$"
    with no_leaks(), pytest.raises(StoreError, match=expected), locked([str(tmp_path / "p")], never):
        pass
    assert os.path.lexists(lock)
    assert other.exists() == before
    assert not before or other.read_bytes() == b""


@pytest.mark.lab
def test_nix_waits_for_us(tmp_path: Path) -> None:
    """An import of the path that we hold goes on when we are done, with a lock file of its own."""
    source, target = (
        NixStore(tmp_path / "source", names=Path("/nix/store")),
        NixStore(tmp_path / "target", names=Path("/nix/store")),
    )
    (tmp_path / "file").write_text("content")
    (path,) = source.lines("nix-store", "--add", str(tmp_path / "file"))
    exported = source.run("nix-store", "--export", path).stdout
    real = target.real_store_dir / Path(path).name
    lock = Path(f"{real}.lock")
    with locked([str(real)], never):
        importing = subprocess.Popen(
            ["nix-store", "--import"], env=target.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert importing.stdin is not None
        importing.stdin.write(exported)
        importing.stdin.flush()
        wait_until(lambda: is_awaited(lock), "nix-store --import at the lock")
        assert not real.exists()
    out, _ = importing.communicate(timeout=60)
    assert out.decode().split() == [path]
    assert not lock.exists()
    target.verify()


@pytest.mark.lab
def test_we_wait_for_nix(tmp_path: Path) -> None:
    """A local build holds the lock of its output until that is valid."""
    store = NixStore(tmp_path / "store")
    started, finish = tmp_path / "started", tmp_path / "finish"
    for fifo in (started, finish):
        os.mkfifo(fifo)
    (tmp_path / "slow.nix").write_text(SLOW.replace("@started@", str(started)).replace("@finish@", str(finish)))
    (drv,) = store.lines("nix-instantiate", str(tmp_path / "slow.nix"))
    (out,) = store.lines("nix-store", "--query", "--outputs", drv)
    building = subprocess.Popen(["nix-store", "--realise", drv], env=store.environ, stdout=subprocess.PIPE)
    started.read_text()
    told: list[str] = []

    def announce(path: str) -> None:
        told.append(path)
        assert store.rows("select * from ValidPaths where path = ?", [out]) == []
        finish.write_text("done")

    with locked([out], announce):
        assert store.rows("select path from ValidPaths where path = ?", [out]) == [(out,)]
    assert told == [out]
    building.communicate(timeout=60)
    assert building.returncode == 0


def test_several_locks_are_taken_in_one_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two builds with the outputs of each other would wait for each other, for an hour."""
    taken: list[str] = []
    opened = os.open

    def record(path: str, *rest: int) -> int:
        taken.append(os.path.basename(path))
        return opened(path, *rest)

    monkeypatch.setattr(os, "open", record)
    for names in ("cab", "bca", "abc"):
        taken.clear()
        with locked([str(tmp_path / name) for name in names], never):
            assert taken == ["a.lock", "b.lock", "c.lock"]
