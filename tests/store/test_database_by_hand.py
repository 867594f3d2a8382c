"""The store's database without a Nix: a schema made by hand.  What Nix says of the same is in test_database.py."""

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from hook.errors import Cancelled, StockOnly, StoreError
from hook.store import database as module
from hook.store.database import Database
from hook.values.info import PathInfo
from tests.fakes.store import FakeStore
from tests.leaks import no_leaks


def path(number: int) -> str:
    return f"/nix/store/{number:032}-path"


def info(number: int, *references: int) -> PathInfo:
    return PathInfo(path(number), None, bytes(32), 8, tuple(path(each) for each in references))


@pytest.fixture
def store(tmp_path: Path) -> FakeStore:
    return FakeStore(tmp_path)


@pytest.fixture
def database(store: FakeStore) -> Iterator[Database]:
    with Database.open(str(store.state)) as database:
        yield database


def test_what_is_registered_reads_back(database: Database) -> None:
    """Every column, in the form that Nix writes."""
    full = PathInfo(
        path=path(1),
        deriver=path(9) + ".drv",
        nar_hash=bytes(range(32)),
        nar_size=4096,
        references=(path(1), path(2)),
        registration_time=17,
        ultimate=True,
        signatures=("a-1:c2ln", "b-1:c2ln"),
        ca="fixed:sha256:0000000000000000000000000000000000000000000000000000",
    )
    database.register([info(2), full], now=99)
    assert database.path_infos([path(1), path(2), path(3)]) == {
        path(1): full,
        path(2): replace(info(2), registration_time=99),
    }


def test_empty_values_are_null_as_in_nix(store: FakeStore, database: Database) -> None:
    """Nix tells them apart from texts without a letter."""
    database.register([replace(info(1), nar_size=0)], now=99)
    query = f"select deriver, narSize, ultimate, sigs, ca from ValidPaths where path = '{path(1)}'"
    assert store.rows(query) == [(None, None, None, None, None)]
    assert database.path_infos([path(1)])[path(1)].nar_size == 0


def test_a_path_that_became_valid_meanwhile_keeps_its_time_and_deriver(database: Database) -> None:
    """The rest is what was imported last; references are added and none is taken away."""
    database.register([info(2), info(3)], now=1)
    database.register([replace(info(1, 2), deriver=path(8))], now=10)
    database.register([replace(info(1, 3), deriver=path(9), nar_size=16, signatures=("k:c2ln",))], now=20)
    (found,) = database.path_infos([path(1)]).values()
    assert (found.registration_time, found.deriver) == (10, path(8))
    assert (found.nar_size, found.signatures, found.references) == (16, ("k:c2ln",), (path(2), path(3)))


@pytest.mark.parametrize("infos", [[info(1, 7)], [info(2), info(1, 7)], [info(1, 2), info(2, 1)]], ids=len)
def test_all_become_valid_or_none(database: Database, infos: list[PathInfo]) -> None:
    """A reference that is not valid, or a circle; and what comes next is not disturbed."""
    with pytest.raises(StoreError):
        database.register(infos, now=1)
    assert database.valid_among([path(1), path(2)]) == set()
    database.register([info(2), info(1, 2)], now=1)
    assert database.valid_among([path(1), path(2), path(3)]) == {path(1), path(2)}


def test_a_closure_is_complete_and_all_of_it_valid(database: Database) -> None:
    """Through several levels, with a path that is reached twice, and one that refers to itself."""
    database.register([info(4), info(3, 4, 3), info(2, 4), info(1, 2, 3), info(5)], now=1)
    assert database.closure([path(1)]) == {path(1), path(2), path(3), path(4)}
    assert database.closure([]) == set()
    with pytest.raises(StoreError, match=f"path '{path(7)}' is not valid"):
        database.closure([path(1), path(7)])


def test_many_paths_are_asked_about_in_parts(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite takes only so many parameters; nothing is lost between two parts."""
    numbers = list(range(1, 2300))
    database.register([info(number, *([number - 1] if number > 1 else [])) for number in numbers], now=1)
    paths = [path(number) for number in reversed(numbers)]
    assert [each.path for each in database.infos(paths)] == paths
    assert {each.path for each in database.outlines(paths)} == set(paths)
    assert database.closure([path(numbers[-1])]) == set(paths)
    for ask in (database.infos, database.outlines):
        with pytest.raises(StoreError, match=f"'{path(5000)}' is not valid"):
            list(ask([*paths, path(5000)]))


def test_an_outline_has_size_and_references(database: Database) -> None:
    """Which is all that it takes to put paths into order."""
    database.register([info(2), info(1, 2)], now=1)
    assert [tuple(each) for each in database.outlines([path(1)])] == [(path(1), 8, [path(2)])]


def test_a_second_close_does_nothing(store: FakeStore) -> None:
    """Another thread's descriptor may have the number by then."""
    with no_leaks():
        database = Database.open(str(store.state))
        database.close()
        held = os.open(store.state / "db/schema", os.O_RDONLY)
        database.close()
        os.fstat(held)
        os.close(held)


def test_the_big_lock_is_held_while_it_is_open(store: FakeStore, database: Database) -> None:
    """A Nix that migrates the store must wait."""
    with (store.state / "db/big-lock").open() as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        database.close()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with no_leaks(), pytest.raises(StockOnly, match="being migrated"):
            Database.open(str(store.state))


@pytest.mark.parametrize("schema", ["11", "", "9"])
def test_another_schema_is_left_to_stock(store: FakeStore, schema: str) -> None:
    """Nobody knows what it means."""
    (store.state / "db/schema").write_text(schema)
    with no_leaks(), pytest.raises(StockOnly, match=f"schema is '{schema}', not '10'"):
        Database.open(str(store.state))


def test_a_file_that_is_no_database_is_named(store: FakeStore) -> None:
    """With its path, and nothing stays open."""
    (store.state / "db/db.sqlite").write_bytes(b"x" * 4096)
    with no_leaks(), pytest.raises(StoreError, match=r"db\.sqlite"):
        Database.open(str(store.state))


def test_whoever_waits_for_a_writer_looks_up(store: FakeStore, database: Database) -> None:
    """Again and again, by the pause that it was given; and it can give up."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise Cancelled

    database.pause = pause
    with closing(sqlite3.connect(store.state / "db/db.sqlite", isolation_level=None)) as other:
        database.execute("pragma busy_timeout = 0")
        other.execute("begin immediate")
        with pytest.raises(Cancelled):
            database.register([info(1)], now=1)
        other.execute("rollback")
    assert pauses == [module.RETRY_S] * 3
    database.pause = lambda seconds: None
    database.register([info(1)], now=1)
    assert database.is_usable()


def test_a_writer_that_never_ends_is_an_error_in_time(store: FakeStore) -> None:
    """And the database is not used again: nobody knows what is wrong with it."""
    with (
        Database.open(str(store.state), busy_s=0.0) as database,
        closing(sqlite3.connect(store.state / "db/db.sqlite", isolation_level=None)) as other,
    ):
        other.execute("begin immediate")
        with pytest.raises(StoreError, match=r"db\.sqlite"):
            database.register([info(1)], now=1)
        assert not database.is_usable()


def test_a_registration_that_nobody_waits_for_is_undone(database: Database) -> None:
    """It may have waited for long; then somebody else may have the locks of the outputs."""

    def pause(seconds: float) -> None:
        raise Cancelled

    database.pause = pause
    with pytest.raises(Cancelled):
        database.register([info(1)], now=1)
    database.pause = lambda seconds: None
    assert database.valid_among([path(1)]) == set()


def test_a_database_that_was_replaced_is_not_used_again(store: FakeStore, database: Database) -> None:
    """A store may be restored from a copy; what is open leads to the old one."""
    assert database.is_usable()
    file = store.state / "db/db.sqlite"
    file.rename(file.with_name("old"))
    assert not database.is_usable()
    file.write_bytes(b"")
    assert not database.is_usable()


def test_one_database_may_be_used_by_one_thread_after_the_other(database: Database) -> None:
    """Conversations are threads of a broker, and take it in turns."""
    thread = threading.Thread(target=database.register, args=([info(1)], 1))
    thread.start()
    thread.join()
    assert database.valid_among([path(1)]) == {path(1)}
    assert "ValidPaths" in database.tables()
