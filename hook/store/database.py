"""The store's SQLite database: path infos and closures out, registrations in.

A Database is used by one thread at a time; open as many as there are threads.  It never creates or migrates a
database: a schema other than the one known here is left to Nix.  What it writes is compared with what Nix writes,
column by column, in store/test_database.py; without a Nix it is tested in store/test_database_by_hand.py.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from graphlib import CycleError, TopologicalSorter
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from hook.errors import StockOnly, StoreError
from hook.values.info import PathInfo, format_hash_hex, parse_hash

SCHEMA = "10"
BUSY_S = 3600.0
"""How long to wait for other writers; Nix's own limit."""

RETRY_S = 0.05
LOOK_UP_S = 1.0
"""How long SQLite may wait for them before `pause` is called."""

BATCH = 500
"""Values in one statement; every SQLite allows 999."""

# Another process is writing, checkpointing or recovering.  PROTOCOL is a lost race for the locks of the WAL, which
# SQLite reports without waiting.
_TRANSIENT = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

_Result = TypeVar("_Result")
_Item = TypeVar("_Item")


class Outline(NamedTuple):
    """Of a valid path, what says when it can be sent and how much that is."""

    path: str
    nar_size: int
    references: list[str]


class Database:
    """An open database, and the shared big lock that keeps others from migrating it meanwhile.

    `pause` waits for as many seconds before another try, and ends the transaction by raising an error.
    """

    def __init__(self, connection: sqlite3.Connection, lock_fd: int, path: str, busy_s: float) -> None:
        self._connection = connection
        self._lock_fd = lock_fd
        self._path = path
        self._busy_s = busy_s
        self._file = _identity(path)
        self._failed = False
        self.pause: Callable[[float], object] = time.sleep

    @classmethod
    def open(
        cls,
        state_dir: str,
        *,
        wal: bool = True,
        fsync_metadata: bool = True,
        busy_s: float = BUSY_S,
        pause: Callable[[float], object] = time.sleep,
    ) -> Self:
        """Open the database below `state_dir` with the settings `use-sqlite-wal` and `fsync-metadata`.

        Waits for those who have it for themselves, up to `busy_s`, by `pause`, which then belongs to the result.
        StockOnly if its schema is unknown or it is being migrated, StoreError if it cannot be opened.
        """
        directory = os.path.join(state_dir, "db")
        path = os.path.join(directory, "db.sqlite")
        lock_fd = _take_big_lock(directory)
        try:
            _check_schema(directory)
            connection = _connect(path, wal, fsync_metadata, busy_s, pause)
        except BaseException:
            os.close(lock_fd)
            raise
        database = cls(connection, lock_fd, path, busy_s)
        database.pause = pause
        return database

    def is_usable(self) -> bool:
        """Whether all went well so far and the file is still where it was opened."""
        return not self._failed and self._file == _identity(self._path)

    def close(self) -> None:
        """Close the database, then let go of the big lock; a second call does nothing."""
        self._connection.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # Reading

    def path_infos(self, paths: Iterable[str]) -> dict[str, PathInfo]:
        """What is registered for those of `paths` that are valid."""
        batches = list(_batches(paths))
        return self.transact("BEGIN", lambda: {info.path: info for batch in batches for info in self._infos(batch)})

    def infos(self, paths: Iterable[str]) -> Iterator[PathInfo]:
        """What is registered for `paths`, in their order, read a part at a time; StoreError if one is not valid."""
        for batch in _batches(paths):
            infos = self.path_infos(batch)
            for path in batch:
                if path not in infos:
                    raise _not_valid(path)
                yield infos[path]

    def outlines(self, paths: Iterable[str]) -> Iterator[Outline]:
        """What is needed to put `paths` into order, read a part at a time; StoreError if one is not valid."""
        for batch in _batches(paths):
            outlines = self.transact("BEGIN", partial(self._outlines, batch))
            if len(outlines) < len(batch):
                raise _not_valid(min(set(batch) - {outline.path for outline in outlines}))
            yield from outlines

    def valid_among(self, paths: Iterable[str]) -> set[str]:
        """Those of `paths` that are valid."""
        wanted = set(paths)
        return self.transact("BEGIN", lambda: set(self._ids(wanted)))

    def closure(self, paths: Iterable[str]) -> set[str]:
        """`paths` and everything they refer to, directly or not; StoreError if one of them is not valid."""
        wanted = set(paths)

        def read() -> set[str]:
            ids = self._ids(wanted)
            for path in sorted(wanted - ids.keys()):
                raise _not_valid(path)
            reached = set(ids.values())
            frontier = reached
            while frontier:
                found: set[int] = set()
                for batch in _batches(frontier):
                    found.update(*self._select("SELECT DISTINCT reference FROM Refs WHERE referrer IN", batch))
                frontier = found - reached
                reached = reached | frontier
            return {
                path
                for batch in _batches(reached)
                for (path,) in self._select("SELECT path FROM ValidPaths WHERE id IN", batch)
            }

        return self.transact("BEGIN", read)

    def tables(self) -> set[str]:
        """The names of all tables."""
        names = "SELECT name FROM sqlite_master WHERE type = 'table'"
        return self.transact("BEGIN", lambda: {name for (name,) in self.execute(names)})

    # Writing

    def register(self, infos: Sequence[PathInfo], now: int) -> None:
        """Make `infos`, none of them a derivation, valid: all of them or none.

        What they refer to must be valid or among them, without cycles.  `now` (Unix seconds) stands in for a
        registration time of 0.
        """
        _check_acyclic(infos)
        self.transact("BEGIN IMMEDIATE", lambda: self._register(infos, now))

    def _register(self, infos: Sequence[PathInfo], now: int) -> None:
        ids = self._ids({path for info in infos for path in (info.path, *info.references)})
        for info in infos:
            if info.path in ids:
                self._update(info)
            else:
                ids[info.path] = self._insert(info, now)
        for info in infos:
            for reference in info.references:
                if reference not in ids:
                    raise _not_valid(reference)
            self._connection.executemany(
                "INSERT OR REPLACE INTO Refs (referrer, reference) VALUES (?, ?)",
                [(ids[info.path], ids[reference]) for reference in info.references],
            )

    def _insert(self, info: PathInfo, now: int) -> int:
        cursor = self._connection.execute(
            "INSERT INTO ValidPaths (hash, narSize, ultimate, sigs, ca, path, registrationTime, deriver)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*_changing_columns(info), info.path, info.registration_time or now, info.deriver),
        )
        return cursor.lastrowid or 0

    def _update(self, info: PathInfo) -> None:
        # As with Nix, a path that became valid meanwhile keeps its registration time and its deriver.
        self._connection.execute(
            "UPDATE ValidPaths SET hash = ?, narSize = ?, ultimate = ?, sigs = ?, ca = ? WHERE path = ?",
            (*_changing_columns(info), info.path),
        )

    # Statements

    def transact(self, begin: str, work: Callable[[], _Result]) -> _Result:
        """Run `work` in one transaction, again if another process got in its way; undo it on any error."""
        deadline = time.monotonic() + self._busy_s
        while True:
            try:
                self._connection.execute(begin)
                try:
                    result = work()
                    if begin != "BEGIN":
                        # It may have waited for long: whoever held the locks of the outputs may be gone.
                        self.pause(0)
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
                return result
            except sqlite3.Error as error:
                if _code(error) not in _TRANSIENT or time.monotonic() >= deadline:
                    self._failed = True
                    raise _unusable(self._path, error) from error
            self.pause(RETRY_S)

    def execute(self, sql: str, parameters: Sequence[str | int | None] = ()) -> sqlite3.Cursor:
        """Run one statement inside of `transact`."""
        return self._connection.execute(sql, parameters)

    def _select(self, select_in: str, values: Sequence[str] | Sequence[int]) -> list[tuple[Any, ...]]:
        return self._connection.execute(f"{select_in} ({','.join('?' * len(values))})", values).fetchall()

    def _outlines(self, paths: Sequence[str]) -> list[Outline]:
        rows = self._select("SELECT id, path, narSize FROM ValidPaths WHERE path IN", paths)
        references = self._references([row_id for row_id, _, _ in rows])
        return [Outline(path, nar_size or 0, references[row_id]) for row_id, path, nar_size in rows]

    def _infos(self, paths: Sequence[str]) -> list[PathInfo]:
        rows = self._select(
            "SELECT id, path, deriver, hash, narSize, registrationTime, ultimate, sigs, ca"
            " FROM ValidPaths WHERE path IN",
            paths,
        )
        references = self._references([row[0] for row in rows])
        return [
            PathInfo(
                path=path,
                deriver=deriver,
                nar_hash=parse_hash(nar_hash, "sha256"),
                nar_size=nar_size or 0,
                references=tuple(sorted(references[row_id])),
                registration_time=registration_time,
                ultimate=ultimate == 1,
                signatures=tuple(sorted((signatures or "").split())),
                ca=ca or "",
            )
            for row_id, path, deriver, nar_hash, nar_size, registration_time, ultimate, signatures, ca in rows
        ]

    def _references(self, ids: Sequence[int]) -> dict[int, list[str]]:
        references: dict[int, list[str]] = {row_id: [] for row_id in ids}
        for referrer, reference in self._select(
            "SELECT referrer, path FROM Refs JOIN ValidPaths ON reference = id WHERE referrer IN", ids
        ):
            references[referrer].append(reference)
        return references

    def _ids(self, paths: Iterable[str]) -> dict[str, int]:
        return {
            path: row_id
            for batch in _batches(paths)
            for path, row_id in self._select("SELECT path, id FROM ValidPaths WHERE path IN", batch)
        }


def _take_big_lock(directory: str) -> int:
    path = os.path.join(directory, "big-lock")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"cannot open '{path}': {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise StockOnly(f"'{path}' is locked: the store is being migrated") from error
    return fd


def _check_schema(directory: str) -> None:
    path = os.path.join(directory, "schema")
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            schema = file.read(16).strip()
    except OSError as error:
        raise StockOnly(f"cannot read '{path}': {error.strerror}") from error
    if schema != SCHEMA:
        raise StockOnly(f"the store's schema is '{schema}', not '{SCHEMA}'")


def _connect(
    path: str, wal: bool, fsync_metadata: bool, busy_s: float, pause: Callable[[float], object]
) -> sqlite3.Connection:
    deadline = time.monotonic() + busy_s
    while True:
        try:
            return _connect_now(path, wal, fsync_metadata, min(busy_s, LOOK_UP_S))
        except sqlite3.Error as error:
            if _code(error) not in _TRANSIENT or time.monotonic() >= deadline:
                raise _unusable(path, error) from error
        pause(RETRY_S)


def _connect_now(path: str, wal: bool, fsync_metadata: bool, busy_s: float) -> sqlite3.Connection:
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    # Processes sharing a database must lock it the same way, and Nix uses lock files when it does without WAL.
    vfs = "" if wal else "&vfs=unix-dotfile"
    connection = sqlite3.connect(
        f"file:{quoted}?mode=rw{vfs}", uri=True, timeout=busy_s, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA foreign_keys = 1")
        connection.execute(f"PRAGMA synchronous = {'normal' if fsync_metadata else 'off'}")
        journal_mode = "wal" if wal else "truncate"
        ((current,),) = connection.execute("PRAGMA main.journal_mode")
        if current != journal_mode:
            connection.execute(f"PRAGMA main.journal_mode = {journal_mode}").fetchall()
        if wal:
            connection.execute(f"PRAGMA main.journal_size_limit = {1 << 40}").fetchall()
            # A checkpoint syncs; Nix has found out after how many pages it is worth it.
            connection.execute("PRAGMA wal_autocheckpoint = 40000").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _identity(path: str) -> tuple[int, int] | None:
    """Of the file at `path`, as long as somebody has it open; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _check_acyclic(infos: Sequence[PathInfo]) -> None:
    """StoreError if paths registered together refer to each other in a circle."""
    together = {info.path for info in infos}
    graph = {info.path: together.intersection(info.references) - {info.path} for info in infos}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        reference, path, *_ = error.args[1]
        raise StoreError(f"cycle detected in the references of '{reference}' from '{path}'") from None


def _changing_columns(info: PathInfo) -> tuple[str, int | None, int | None, str | None, str | None]:
    return (
        f"sha256:{format_hash_hex(info.nar_hash)}",
        info.nar_size or None,
        1 if info.ultimate else None,
        " ".join(sorted(info.signatures)) or None,
        info.ca or None,
    )


def _batches(values: Iterable[_Item]) -> Iterator[list[_Item]]:
    everything = list(values)
    for start in range(0, len(everything), BATCH):
        yield everything[start : start + BATCH]


def _not_valid(path: str) -> StoreError:
    return StoreError(f"path '{path}' is not valid")


def _code(error: sqlite3.Error) -> int | None:
    # Errors of the Python module itself carry none.
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _unusable(path: str, error: sqlite3.Error) -> StoreError:
    what = f"cannot use the database '{path}': {error}"
    if _code(error) in _DAMAGED:
        what += "; restore it from a backup, or from what `sqlite3 FILE .recover` can read of it, then build again"
    return StoreError(what)
