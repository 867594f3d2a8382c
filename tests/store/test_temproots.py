"""Temporary roots: what is rooted survives Nix's own collector, before, during and after a collection."""

import fcntl
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from hook.errors import Cancelled, StoreError
from hook.store import temproots
from hook.store.temproots import TempRoots
from tests.nixstore import COLLECTOR, NixStore

pytestmark = pytest.mark.lab


@pytest.fixture
def store(tmp_path: Path) -> NixStore:
    """A store with a few paths that nothing keeps."""
    store = NixStore(tmp_path / "store")
    store.build("leaf", "fixed")
    return store


def _path(store: NixStore, name: str) -> str:
    (path,) = [path for path in store.objects() if path.endswith(f"-{name}")]
    return path


def test_a_rooted_path_survives_until_the_root_ends(store: NixStore) -> None:
    """Only what was rooted, and only as long as this process wants it."""
    leaf, fixed = _path(store, "leaf"), _path(store, "fixed")
    roots = TempRoots(str(store.state_dir))
    roots.add([leaf])
    store.collect()
    assert store.objects() == [leaf]
    roots.add([fixed])
    roots.close()
    store.collect()
    assert store.objects() == []
    assert list((store.state_dir / "temproots").iterdir()) == []


def test_several_owners_in_one_process_do_not_end_each_others_roots(store: NixStore) -> None:
    """A broker serves many builds at once, each with roots of its own."""
    leaf, fixed = _path(store, "leaf"), _path(store, "fixed")
    first, second = TempRoots(str(store.state_dir)), TempRoots(str(store.state_dir))
    first.add([leaf])
    second.add([fixed])
    store.collect()
    assert set(store.objects()) == {leaf, fixed}
    second.close()
    store.collect()
    assert store.objects() == [leaf]
    first.close()
    assert list((store.state_dir / "temproots").iterdir()) == []


def test_an_invalid_path_survives_too(store: NixStore) -> None:
    """A path that is being restored is not valid yet, and a collector deletes what is not valid."""
    leaf = _path(store, "leaf")
    other = leaf.replace("-leaf", "-other")
    store.delete(leaf)
    for path in (leaf, other):
        os.mkdir(path)
    roots = TempRoots(str(store.state_dir))
    roots.add([other])
    store.collect()
    # The collector goes by hash: both names have the same one.
    assert os.path.exists(other)
    roots.close()
    store.collect()
    assert not os.path.exists(other)


@contextmanager
def _collector_in_the_middle(store: NixStore) -> Iterator[None]:
    """Nix's collector, stopped after it has read every root and before it deletes anything."""
    fifo = store.root / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(
        COLLECTOR,
        # The name of this point up to Nix 2.8, and since.
        env=store.environ | {"_NIX_TEST_GC_SYNC": str(fifo), "_NIX_TEST_GC_SYNC_2": str(fifo)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as collector:
        with open(fifo, "wb"):
            yield
        assert collector.wait() == 0


def test_a_running_collector_is_told(store: NixStore) -> None:
    """It has read the files already; a root it learns of over its socket counts, now and in the next collection."""
    leaf, fixed = _path(store, "leaf"), _path(store, "fixed")
    roots = TempRoots(str(store.state_dir))
    with _collector_in_the_middle(store):
        roots.add([leaf, fixed])
    assert set(store.objects()) == {leaf, fixed}
    store.collect()
    assert set(store.objects()) == {leaf, fixed}
    roots.close()


def test_a_collector_survives_any_number_of_builds(store: NixStore) -> None:
    """It aborts over connections that are opened and closed in quick succession."""
    leaf = _path(store, "leaf")
    kept = TempRoots(str(store.state_dir))
    with _collector_in_the_middle(store):
        for _ in range(2000):
            roots = TempRoots(str(store.state_dir))
            roots.add([leaf])
            roots.close()
        kept.add([leaf])
    assert store.objects() == [leaf]
    kept.close()


def test_the_state_directory_may_have_a_long_name(tmp_path: Path) -> None:
    """The address of a socket has 107 bytes."""
    store = NixStore(tmp_path / ("long-name" * 15))
    store.build("leaf")
    roots = TempRoots(str(store.state_dir))
    with _collector_in_the_middle(store):
        roots.add([_path(store, "leaf")])
    assert len(store.objects()) == 1
    roots.close()


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[int]:
    """The lock of a collector that does not answer yet."""
    with open(tmp_path / "gc.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def test_a_collector_that_ends_meanwhile_is_waited_for(tmp_path: Path, collector: int) -> None:
    """Its socket is gone before its lock is; afterwards the file alone counts."""
    roots = TempRoots(str(tmp_path))
    with ThreadPoolExecutor() as pool:
        adding = pool.submit(roots.add, ["/nix/store/a"])
        with pytest.raises(TimeoutError):
            adding.result(0.3)
        fcntl.flock(collector, fcntl.LOCK_UN)
        adding.result()
    (file,) = (tmp_path / "temproots").iterdir()
    assert file.read_bytes() == b"/nix/store/a\0"
    roots.close()


def test_a_collector_that_hangs_up_is_asked_again(tmp_path: Path, collector: int) -> None:
    """A root that was not acknowledged may not have been seen."""
    (tmp_path / "gc-socket").mkdir()
    roots = TempRoots(str(tmp_path))
    with socket.socket(socket.AF_UNIX) as server, ThreadPoolExecutor() as pool:
        server.bind(str(tmp_path / "gc-socket" / "socket"))
        server.listen()
        adding = pool.submit(roots.add, ["/nix/store/a", "/nix/store/b"])
        with server.accept()[0] as connection:
            assert connection.recv(100) == b"/nix/store/a\n"
        with server.accept()[0] as connection:
            assert connection.recv(100) == b"/nix/store/a\n"
            connection.sendall(b"1")
            assert connection.recv(100) == b"/nix/store/b\n"
            connection.sendall(b"1")
            adding.result()
    roots.close()


@contextmanager
def _listening(directory: Path) -> Iterator[socket.socket]:
    """The socket of a collector."""
    (directory / "gc-socket").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(20)
        server.bind(str(directory / "gc-socket" / "socket"))
        server.listen()
        yield server


def _answer(connection: socket.socket, count: int) -> list[bytes]:
    """The next `count` roots that a collector is told, each of which it promises to spare."""
    told = []
    for _ in range(count):
        told.append(connection.recv(100))
        connection.sendall(b"1")
    return told


def test_all_builds_of_a_process_share_one_connection(tmp_path: Path, collector: int) -> None:
    """Side by side and one after the other, until no collector runs any more."""
    names = [f"/nix/store/{number}".encode() for number in range(20)]

    def build(name: bytes) -> None:
        roots = TempRoots(str(tmp_path))
        roots.add([name.decode(), "/nix/store/common"])
        roots.close()

    with _listening(tmp_path) as server, ThreadPoolExecutor(4) as pool:
        builds = [pool.submit(build, name) for name in names]
        with server.accept()[0] as connection:
            told = _answer(connection, 40)
            for done in builds:
                done.result()
            later = pool.submit(build, b"later")
            assert _answer(connection, 2) == [b"later\n", b"/nix/store/common\n"]
            later.result()
            fcntl.flock(collector, fcntl.LOCK_UN)
            build(b"after the collection")
            assert connection.recv(1) == b""
    assert sorted(told[::2]) == sorted(name + b"\n" for name in names)
    assert set(told[1::2]) == {b"/nix/store/common\n"}


def test_the_next_collector_is_told_over_a_connection_of_its_own(tmp_path: Path, collector: int) -> None:
    """What was left of the last one is noticed, even if nobody was looking when it ended."""
    roots = TempRoots(str(tmp_path))
    with _listening(tmp_path) as server, ThreadPoolExecutor() as pool:
        first = pool.submit(roots.add, ["/nix/store/a"])
        with server.accept()[0] as connection:
            _answer(connection, 1)
            first.result()
        second = pool.submit(roots.add, ["/nix/store/b"])
        with server.accept()[0] as connection:
            assert _answer(connection, 1) == [b"/nix/store/b\n"]
            second.result()
    roots.close()


class _GivenUpError(Exception):
    """Raised by whoever does not want to wait any more."""


def test_an_answer_that_nobody_waits_for_is_not_taken_for_anothers(tmp_path: Path, collector: int) -> None:
    """A build is given up while the collector is slow; the one after it must not believe to be safe too early."""
    asked = threading.Event()

    def give_up(_: float) -> None:
        if asked.is_set():
            raise _GivenUpError

    roots, others = TempRoots(str(tmp_path), pause=give_up), TempRoots(str(tmp_path))
    with _listening(tmp_path) as server, ThreadPoolExecutor() as pool:
        given_up = pool.submit(roots.add, ["/nix/store/a"])
        with server.accept()[0] as connection:
            assert connection.recv(100) == b"/nix/store/a\n"
            asked.set()
            with pytest.raises(_GivenUpError):
                given_up.result()
            adding = pool.submit(others.add, ["/nix/store/b"])
            assert connection.recv(100) == b"/nix/store/b\n"
            connection.sendall(b"1")
            with pytest.raises(TimeoutError):
                adding.result(0.3)
            connection.sendall(b"1")
            adding.result()
    others.close()
    roots.close()


@pytest.mark.parametrize("listening", [False, True])
def test_a_collector_that_never_answers_is_an_error(tmp_path: Path, collector: int, listening: bool) -> None:
    """Nothing waits for ever, and nothing goes on unprotected."""
    (tmp_path / "gc-socket").mkdir()
    roots = TempRoots(str(tmp_path), collector_s=0.2)
    with socket.socket(socket.AF_UNIX) as server:
        if listening:
            server.bind(str(tmp_path / "gc-socket" / "socket"))
            server.listen()
        with pytest.raises(StoreError, match=r"cannot protect '/nix/store/a' from the .*garbage collector"):
            roots.add(["/nix/store/a"])
    fcntl.flock(collector, fcntl.LOCK_UN)
    roots.add(["/nix/store/a"])
    roots.close()


@pytest.mark.parametrize("listening", [False, True])
def test_whoever_gives_up_does_not_wait_for_a_collector(tmp_path: Path, collector: int, listening: bool) -> None:
    """It may take minutes, and its build has no owner any more."""

    def gone(_: float) -> None:
        raise Cancelled("nobody waits")

    (tmp_path / "gc-socket").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        if listening:
            server.bind(str(tmp_path / "gc-socket" / "socket"))
            server.listen()
        roots = TempRoots(str(tmp_path), pause=gone)
        with pytest.raises(Cancelled):
            roots.add(["/nix/store/a"])
        roots.close()


def test_a_stale_file_of_this_process_id_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Process ids come round again; the roots of the last owner are nobody's."""
    directory = tmp_path / "temproots"
    directory.mkdir()
    monkeypatch.setattr(temproots, "_serials", iter([7]))
    file = directory / f"{os.getpid()}.7"
    file.write_bytes(b"/nix/store/stale\0")
    roots = TempRoots(str(tmp_path))
    roots.add(["/nix/store/a"])
    roots.add(["/nix/store/a", "/nix/store/b"])
    assert file.read_bytes() == b"/nix/store/a\0/nix/store/b\0"
    assert file.stat().st_mode & 0o777 == 0o600
    with open(file, "rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    roots.close()


def test_a_state_directory_that_is_not_ours_is_an_error(tmp_path: Path) -> None:
    """Without a root nothing may be written."""
    (tmp_path / "temproots").touch()
    with pytest.raises(StoreError, match="cannot protect '/nix/store/a'"):
        TempRoots(str(tmp_path)).add(["/nix/store/a"])
