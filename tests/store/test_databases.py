"""One build's database serves the next one, unless it is no longer the store's."""

import os
import shutil
import threading
from pathlib import Path

import pytest

from hook.errors import StoreError
from hook.store.database import Database
from hook.store.databases import Access, Databases
from tests.nixstore import NixStore


@pytest.fixture
def access(tmp_path: Path) -> Access:
    store = NixStore(tmp_path)
    store.build("leaf")
    return Access(str(store.state_dir), True, True)


def is_open(database: Database) -> bool:
    try:
        return bool(database.tables())
    except StoreError:
        return False


def test_one_that_was_given_back_is_used_again(access: Access) -> None:
    """By another thread, too; never by two at once."""
    databases = Databases()
    first = databases.take(access)
    second = databases.take(access)
    assert second is not first
    databases.give(access, first)
    taken: list[Database] = []
    thread = threading.Thread(target=lambda: taken.append(databases.take(access)))
    thread.start()
    thread.join()
    assert taken == [first]
    assert first.tables() >= {"ValidPaths"}
    databases.give(access, second)
    databases.close()
    first.close()


def test_other_settings_mean_another_database(access: Access) -> None:
    databases = Databases()
    databases.give(access, databases.take(access))
    with databases.take(access._replace(fsync_metadata=False)) as other:
        assert other.tables()
    with databases.take(access) as same:
        assert same.tables()


def test_a_store_that_was_made_anew_is_opened_anew(access: Access, tmp_path: Path) -> None:
    """The old file lives on, nameless, for whoever has it open: what is registered there is lost."""
    databases = Databases()
    old = databases.take(access)
    databases.give(access, old)
    shutil.rmtree(access.state_dir)
    NixStore(tmp_path / "other")
    os.rename(tmp_path / "other" / "state", access.state_dir)
    with databases.take(access) as database:
        assert database is not old
        assert database.transact("BEGIN", lambda: database.execute("SELECT count(*) FROM ValidPaths").fetchall()) == [
            (0,)
        ]
    assert not is_open(old)


def test_one_that_failed_is_not_used_again(access: Access) -> None:
    databases = Databases()
    database = databases.take(access)
    with pytest.raises(StoreError, match="no such table"):
        database.transact("BEGIN", lambda: database.execute("SELECT * FROM Missing"))
    databases.give(access, database)
    with databases.take(access) as other:
        assert other is not database
    assert not is_open(database)


def test_only_so_many_are_kept_and_not_for_long(access: Access) -> None:
    """An open one would keep Nix from migrating the store."""
    databases = Databases(idle_s=0, max_idle=2)
    used = [databases.take(access) for _ in range(3)]
    for database in used:
        databases.give(access, database)
    assert [is_open(database) for database in used] == [True, True, False]
    databases.tidy()
    assert not any(is_open(database) for database in used)
    unused = Databases(max_idle=0)
    database = unused.take(access)
    unused.give(access, database)
    assert not is_open(database)
