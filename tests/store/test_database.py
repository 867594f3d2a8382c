"""The database: what we read is what Nix says, what we write is what Nix writes."""

import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.errors import Cancelled, StockOnly, StoreError
from hook.store.database import BATCH, Database
from hook.values.info import PathInfo, parse_hash
from hook.values.path import encode_base32
from tests.leaks import no_leaks
from tests.nixstore import NixStore

STORE = "/nix/store"
NOW = 1_700_000_000

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> NixStore:
    """A store with outputs of every kind, signed."""
    store = NixStore(tmp_path_factory.mktemp("built"))
    store.build()
    key = store.root / "key"
    store.run("nix-store", "--generate-binary-cache-key", "key-1", str(key), f"{key}.pub")
    store.run("nix", "store", "sign", "--all", "-k", str(key))
    return store


@pytest.fixture
def empty(tmp_path: Path) -> NixStore:
    """An empty store."""
    return NixStore(tmp_path / "empty", names=Path(STORE))


@pytest.fixture
def database(empty: NixStore) -> Iterator[Database]:
    """The database of the empty store."""
    with Database.open(str(empty.state_dir)) as opened:
        yield opened


def info_of(database: Database, path: str) -> PathInfo | None:
    return database.path_infos([path]).get(path)


def path(number: int) -> str:
    """The `number`-th of many store paths."""
    return f"{STORE}/{encode_base32(number.to_bytes(20, 'little'))}-p"


def info(number: int, *references: int) -> PathInfo:
    """Something to register."""
    return PathInfo(path(number), None, bytes(32), 120, tuple(sorted(map(path, references))))


# Reading


def test_path_infos_are_what_nix_says(built: NixStore) -> None:
    """Each field of each path, asked from `nix path-info`."""
    reported = json.loads(built.run("nix", "path-info", "--json", "--all").stdout)
    # Newer releases key the entries by path.
    entries = {entry["path"]: entry for entry in reported} if isinstance(reported, list) else reported
    with Database.open(str(built.state_dir)) as database:
        infos = database.path_infos(entries)
    assert len(infos) == len(entries) > 10
    for wanted, entry in entries.items():
        ours = infos[wanted]
        assert ours.nar_size == entry["narSize"]
        assert ours.references == tuple(sorted(entry["references"]))
        assert ours.registration_time == entry["registrationTime"]
        assert ours.deriver == entry.get("deriver")
        assert ours.signatures == tuple(sorted(entry.get("signatures", [])))
        assert ours.ca == (entry.get("ca") or "")
        assert ours.ultimate == entry.get("ultimate", False)
        assert ours.nar_hash == parse_hash(entry["narHash"], "sha256")


def test_a_closure_is_what_nix_says(built: NixStore) -> None:
    """Outputs, derivations and sources, with self references and two outputs of one build among them."""
    with Database.open(str(built.state_dir)) as database:
        for (wanted,) in built.rows("select path from ValidPaths"):
            assert database.closure([wanted]) == set(built.lines("nix-store", "-qR", wanted))
        everything = {wanted for (wanted,) in built.rows("select path from ValidPaths")}
        assert database.closure(everything) == everything


def test_an_invalid_path_has_no_closure(built: NixStore) -> None:
    """It would be an incomplete one, and the machine would miss an input."""
    with Database.open(str(built.state_dir)) as database, pytest.raises(StoreError, match=f"'{path(7)}' is not valid"):
        database.closure([path(7)])


def test_only_valid_paths_are_found(database: Database) -> None:
    """More paths than one statement takes, every second of them valid."""
    count = 3 * BATCH + 1
    database.register([info(n) for n in range(0, count, 2)], NOW)
    valid = {path(n) for n in range(0, count, 2)}
    assert database.valid_among(path(n) for n in range(count)) == valid
    assert set(database.path_infos(path(n) for n in range(count))) == valid
    assert info_of(database, path(1)) is None


def test_many_infos_come_in_the_order_asked_for(database: Database) -> None:
    """References first, say; read a part at a time, so that no closure is in memory as a whole."""
    count = 3 * BATCH + 1
    database.register([info(n, *range(max(0, n - 3), n)) for n in range(count)], NOW)
    paths = [path(n) for n in reversed(range(count))]
    infos = list(database.infos(paths))
    assert [info.path for info in infos] == paths
    assert infos[0] == info_of(database, paths[0])
    outlines = {outline.path: (outline.nar_size, sorted(outline.references)) for outline in database.outlines(paths)}
    assert outlines == {info.path: (info.nar_size, list(info.references)) for info in infos}


def test_what_is_not_valid_is_named_where_all_must_be(database: Database) -> None:
    """A machine would wait for it."""
    database.register([info(n) for n in range(3)], NOW)
    paths = [path(n) for n in (0, 7, 1)]
    for read in (database.infos, database.outlines):
        with pytest.raises(StoreError, match=f"'{path(7)}' is not valid"):
            list(read(paths))


def test_a_deep_and_wide_closure_is_complete(database: Database) -> None:
    """A chain longer than any recursion limit, each link with a leaf of its own, found from both of two ends."""
    length = 2 * BATCH
    links = [info(n, *([n - 1] if n else []), length + n) for n in range(length)]
    leaves = [info(length + n) for n in range(length)]
    database.register([*leaves, *links], NOW)
    assert database.closure([path(length - 1), path(3)]) == {path(n) for n in range(2 * length)}


# Writing


@given(
    st.builds(
        PathInfo,
        path=st.just(path(1)),
        deriver=st.none() | st.just(path(2) + ".drv"),
        nar_hash=st.binary(min_size=32, max_size=32),
        nar_size=st.integers(0, 2**40),
        references=st.sets(st.sampled_from([path(1), path(3)])).map(lambda found: tuple(sorted(found))),
        registration_time=st.integers(1, 2**40),
        ultimate=st.booleans(),
        signatures=st.sets(st.sampled_from(["a-1:AA==", "b-1:BB==", "c:CC=="])).map(lambda found: tuple(sorted(found))),
        ca=st.sampled_from(["", "fixed:r:sha256:" + "0" * 52]),
    )
)
def test_what_is_registered_reads_back(tmp_path_factory: pytest.TempPathFactory, registered: PathInfo) -> None:
    """Every column, also where it is NULL for nothing."""
    state = _fresh_state(tmp_path_factory)
    with Database.open(state) as database:
        database.register([info(3), registered], NOW)
        assert info_of(database, path(1)) == registered


_template: list[bytes] = []


def _fresh_state(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A state directory that holds a copy of the database of an empty store."""
    if not _template:
        store = NixStore(tmp_path_factory.mktemp("template") / "store")
        store.rows("pragma journal_mode = delete")
        _template.append((store.state_dir / "db" / "db.sqlite").read_bytes())
    directory = tmp_path_factory.mktemp("state")
    (directory / "db").mkdir()
    (directory / "db" / "db.sqlite").write_bytes(_template[0])
    (directory / "db" / "schema").write_text("10")
    return str(directory)


def test_the_time_is_now_where_none_is_given(database: Database) -> None:
    """Machines that speak the older protocol report no registration time."""
    database.register([info(1), replace(info(2), registration_time=5)], NOW)
    infos = database.path_infos([path(1), path(2)])
    assert [infos[path(n)].registration_time for n in (1, 2)] == [NOW, 5]


def test_registering_again_keeps_what_nix_keeps(database: Database) -> None:
    """Hash, size, signatures, address and `ultimate` are replaced; time, deriver and references stay."""
    first = PathInfo(path(1), path(9) + ".drv", bytes(32), 120, (path(1),), 5, True, ("a:AA==",), "fixed:r:sha256:0")
    again = PathInfo(path(1), None, b"\1" * 32, 240, (path(2),), 6, False, ("b:BB==",), "")
    database.register([first], NOW)
    database.register([info(2), again], NOW)
    assert info_of(database, path(1)) == replace(
        again, deriver=first.deriver, registration_time=5, references=(path(1), path(2))
    )


def test_paths_may_refer_to_each_other_in_any_order(database: Database) -> None:
    """All outputs of a build are registered at once, in whatever order they arrived."""
    database.register([info(2, 1, 2), info(1, 1)], NOW)
    assert database.closure([path(2)]) == {path(1), path(2)}


def test_a_reference_that_is_not_valid_undoes_everything(database: Database) -> None:
    """Half a build must not become valid, and stock's words say which path is missing."""
    with pytest.raises(StoreError, match=f"^path '{path(5)}' is not valid$"):
        database.register([info(1), info(2, 5)], NOW)
    assert database.valid_among([path(1), path(2)]) == set()
    database.register([info(1)], NOW)


def test_a_cycle_undoes_everything(database: Database) -> None:
    """Nothing that refers to itself through others could ever be collected or copied."""
    with pytest.raises(StoreError, match="cycle detected in the references of"):
        database.register([info(1, 2), info(2, 3), info(3, 1), info(4)], NOW)
    assert database.valid_among(map(path, range(5))) == set()


# Together with others


def test_writers_do_not_lose_each_others_registrations(empty: NixStore) -> None:
    """Several hooks and their parent write at once; each waits for its turn."""

    def write(first: int) -> None:
        with Database.open(str(empty.state_dir)) as database:
            for n in range(first, first + 25):
                database.register([info(n)], NOW)

    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(write, 1000 * n) for n in range(6)]
        for n in range(10):
            empty.run("nix-store", "--load-db", stdin=f"{path(9000 + n)}\n{'0' * 64}\n120\n\n0\n".encode())
        for writer in writers:
            writer.result()
    assert empty.rows("select count(*) from ValidPaths") == [(160,)]


@pytest.mark.parametrize("wal", [True, False])
def test_a_writer_waits_for_another(tmp_path: Path, wal: bool) -> None:
    """The other one is in the middle of its transaction; ours begins when that one has ended."""
    state = str(_store_with_wal(tmp_path, wal).state_dir)

    def register() -> None:
        with Database.open(state, wal=wal) as database:
            database.register([info(1)], NOW)

    with ThreadPoolExecutor() as pool, Database.open(state, wal=wal) as other:
        waiting = other.transact("BEGIN IMMEDIATE", lambda: _started_and_blocked(pool.submit(register)))
        waiting.result()
        assert other.valid_among([path(1)]) == {path(1)}


@pytest.mark.parametrize("wal", [True, False])
def test_whoever_gives_up_does_not_wait_for_one_who_has_it_alone(tmp_path: Path, wal: bool) -> None:
    """It can be locked for an hour, and not only while somebody writes."""

    def gone(_: float) -> None:
        raise Cancelled("nobody waits")

    store = _store_with_wal(tmp_path, wal)
    vfs = "" if wal else "&vfs=unix-dotfile"
    with closing(sqlite3.connect(f"file:{store.state_dir}/db/db.sqlite?mode=rw{vfs}", uri=True)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        # In WAL mode opening it needs no lock.
        with pytest.raises(Cancelled), Database.open(str(store.state_dir), wal=wal, pause=gone) as database:
            database.valid_among([path(1)])


def _started_and_blocked(future: Future[None]) -> Future[None]:
    with pytest.raises(TimeoutError):
        future.result(0.3)
    return future


def _store_with_wal(root: Path, wal: bool) -> NixStore:
    return NixStore(root / "store", names=Path(STORE), use_sqlite_wal="true" if wal else "false")


def test_waiting_for_a_writer_ends(empty: NixStore) -> None:
    """A writer that never ends must not take this build with it for ever."""
    state = str(empty.state_dir)
    with Database.open(state) as writer, Database.open(state, busy_s=0.1) as database:

        def work() -> None:
            with pytest.raises(StoreError, match=r"cannot use the database '.*': database is locked"):
                database.register([info(1)], NOW)

        writer.transact("BEGIN IMMEDIATE", work)
        database.register([info(1)], NOW)


@pytest.mark.parametrize("busy", [True, False], ids=["while it waits", "when it need not wait any more"])
def test_a_registration_that_nobody_waits_for_any_more_is_given_up(empty: NixStore, busy: bool) -> None:
    """The locks of its outputs went with Nix: somebody else may be writing them anew by now."""

    def give_up(seconds: float) -> None:
        raise Cancelled(f"instead of {seconds} s")

    state = str(empty.state_dir)
    with Database.open(state) as writer, Database.open(state) as database:
        database.pause = give_up

        def work() -> None:
            with pytest.raises(Cancelled):
                database.register([info(1)], NOW)

        if busy:
            writer.transact("BEGIN IMMEDIATE", work)
        else:
            work()
        assert writer.valid_among([path(1)]) == set()
        writer.register([info(1)], NOW)


KILLED = """
import os, sys
from hook.store.database import Database
from tests.store.test_database import info, NOW
class Stopping(Database):
    def _insert(self, info, now):
        row = super()._insert(info, now)
        print("in the middle", flush=True)
        sys.stdin.read()
        return row
Stopping.open(sys.argv[1]).register([info(1), info(2)], NOW)
"""


def test_a_writer_killed_in_the_middle_leaves_nothing(empty: NixStore) -> None:
    """A hook can be killed at any instant; Nix and the next hook find the database as it was."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(empty.state_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout
        assert process.stdout.readline() == b"in the middle\n"
        process.send_signal(signal.SIGKILL)
    with Database.open(str(empty.state_dir)) as database:
        assert database.valid_among([path(1), path(2)]) == set()
        database.register([info(1)], NOW)
    assert empty.lines("nix-store", "-q", "--hash", path(1)) == ["sha256:" + "0" * 52]


# Opening


def test_an_unknown_schema_is_left_to_stock(empty: NixStore) -> None:
    """A future Nix may keep something else in the same columns."""
    (empty.state_dir / "db" / "schema").write_text("11")
    with pytest.raises(StockOnly, match="schema is '11'"):
        Database.open(str(empty.state_dir))


def test_a_store_without_database_is_left_to_stock(tmp_path: Path) -> None:
    """Creating one is Nix's business."""
    (tmp_path / "db").mkdir()
    with pytest.raises(StockOnly, match="schema"):
        Database.open(str(tmp_path))


def test_a_store_being_migrated_is_left_to_stock(empty: NixStore) -> None:
    """Whoever holds the big lock exclusively changes the tables."""
    with open(empty.state_dir / "db" / "big-lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StockOnly, match="migrated"):
            Database.open(str(empty.state_dir))


def test_an_open_database_keeps_migrations_away(empty: NixStore) -> None:
    """Until it is closed."""
    with open(empty.state_dir / "db" / "big-lock", "r+b") as lock:
        with Database.open(str(empty.state_dir)), pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_damaged_database_is_an_error_with_its_name(empty: NixStore) -> None:
    """The user is told which file, and what to do about it."""
    file = empty.state_dir / "db" / "db.sqlite"
    file.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(StoreError, match=f"'{file}': .*; restore it from a backup"):
        Database.open(str(empty.state_dir))


def test_odd_characters_in_the_state_directory_are_its_name(tmp_path: Path) -> None:
    """SQLite is given a URI, in which some characters have a meaning."""
    odd = NixStore(tmp_path / "a", names=Path(STORE))
    os.rename(odd.state_dir, tmp_path / "100%?mode=ro#x")
    with Database.open(str(tmp_path / "100%?mode=ro#x")) as database:
        database.register([info(1)], NOW)


@pytest.mark.parametrize("wal", [True, False])
def test_the_journal_is_the_one_asked_for(tmp_path: Path, wal: bool) -> None:
    """`use-sqlite-wal = false` is for file systems without shared memory: no -wal file may appear there."""
    store = _store_with_wal(tmp_path, wal)
    with Database.open(str(store.state_dir), wal=wal) as database:
        database.register([info(1)], NOW)
        assert (store.state_dir / "db" / "db.sqlite-wal").exists() == wal
    assert store.lines("nix-store", "-q", "--hash", path(1)) == ["sha256:" + "0" * 52]


def test_nothing_stays_open_after_close(empty: NixStore) -> None:
    """A broker opens many."""
    with no_leaks():
        for _ in range(3):
            database = Database.open(str(empty.state_dir))
            database.valid_among([path(1)])
            database.close()
            database.close()
