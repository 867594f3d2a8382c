"""A host's Nix state as sorted lines of text, so that two of them can be compared with a plain diff.

Lines leave out what differs between any two runs: row ids, registration times (but for one fact, see `_valid_paths`),
times of directories that are not store objects.
"""

import bz2
import contextlib
import hashlib
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from tests.lab.host import Host

DATABASE = "var/nix/db/db.sqlite"
LOGS = "var/log/nix/drvs"
SLOTS = "var/nix/current-load"

Times = dict[str, int]
"""Registration time by store path."""


def snapshot(host: Host, scratch: Path, store: str = "/nix", origin: Times | None = None) -> list[str]:
    """Describe the store `store` of `host`: rows, files, logs, slots and what Nix says when it checks them.

    `origin`, if given, are the registration times of the machine the outputs came from, which they should have kept.
    Nobody may use the store meanwhile.
    """
    root = host.path(store)
    with _database(root, scratch) as database:
        lines = [*_rows(database), *_valid_paths(database, origin)]
    lines += _tree(root / "store")
    lines += (f"log {path.name} {bz2.decompress(path.read_bytes())!r}" for path in (root / LOGS).rglob("*.bz2"))
    # Stock makes a file for every slot that it looks at; a slot without one is free as well.
    slots = {(path.name.rpartition("-")[0], oct(path.stat().st_mode)) for path in (root / SLOTS).glob("*[0-9]")}
    lines += (f"slots {machine} {mode}" for machine, mode in slots)
    option = ["--store", store.removesuffix("/nix")] if store != "/nix" else []
    verified = host.run(["nix-store", *option, "--verify", "--check-contents"], check=False)
    lines.append(f"verify exit {verified.returncode}")
    lines += (f"verify {line}" for line in verified.stderr.splitlines())
    return sorted(lines)


def registration_times(host: Host, scratch: Path, store: str = "/nix") -> Times:
    """Return when each path that was built in the store `store` of `host` was registered there."""
    with _database(host.path(store), scratch) as database:
        if "ValidPaths" not in _tables(database):
            return {}
        return dict(database.execute("select path, registrationTime from ValidPaths where ultimate = 1"))


@contextlib.contextmanager
def _database(root: Path, scratch: Path) -> Iterator[sqlite3.Connection]:
    """Open a copy: SQLite resolves `/proc/PID/root` itself, to the root of the wrong machine."""
    for suffix in ("", "-wal"):
        copy = scratch / f"db.sqlite{suffix}"
        copy.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(root / f"{DATABASE}{suffix}", copy)
    with contextlib.closing(sqlite3.connect(scratch / "db.sqlite")) as connection:
        yield connection


def _tables(database: sqlite3.Connection) -> set[str]:
    """None at all where nobody has used the store yet."""
    return {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}


def _rows(database: sqlite3.Connection) -> Iterator[str]:
    """Every table but ValidPaths, whose row ids are replaced by the paths they stand for."""
    path = "(select path from ValidPaths where id = {})"
    queries = {
        "Refs": f"select {path.format('referrer')}, {path.format('reference')} from Refs",
        "DerivationOutputs": f"select {path.format('drv')}, id, path from DerivationOutputs",
        "Realisations": f"select drvPath, outputName, {path.format('outputPath')}, signatures from Realisations",
        "SchemaMigrations": "select migration from SchemaMigrations",
    }
    for table in sorted(_tables(database) & queries.keys()):
        for row in database.execute(queries[table]):
            yield f"{table} {row}"


def _valid_paths(database: sqlite3.Connection, origin: Times | None) -> Iterator[str]:
    """Rows of ValidPaths; for an output the time is reduced to whether it is the one of the machine it came from."""
    if "ValidPaths" not in _tables(database):
        return
    columns = "path, hash, deriver, narSize, ultimate, sigs, ca, registrationTime"
    for path, *values, time in database.execute(f"select {columns} from ValidPaths"):
        # Of what was not built there, two machines may have the same time by chance.
        when = f" time as there: {origin[path] == time}" if origin is not None and path in origin else ""
        yield f"ValidPaths {path} {values}{when}"


def _tree(store: Path) -> Iterator[str]:
    for directory, directories, files in os.walk(store):
        for name in [*directories, *files]:
            path = Path(directory, name)
            yield f"file {path.relative_to(store)} {_file(path)}"


def _file(path: Path) -> str:
    status = path.lstat()
    kind = stat.S_IFMT(status.st_mode)
    # No store objects: the directory of links, and locks that a failed build leaves.
    time = "" if path.name.endswith((".links", ".lock")) else f"mtime {status.st_mtime_ns} "
    facts = f"{oct(status.st_mode)} owner {status.st_uid}:{status.st_gid} links {status.st_nlink} {time}"
    facts += f"attributes {os.listxattr(path, follow_symlinks=False)}"
    if kind == stat.S_IFREG:
        return f"{facts} size {status.st_size} {hashlib.sha256(path.read_bytes()).hexdigest()}"
    if kind == stat.S_IFLNK:
        return f"{facts} -> {os.readlink(path)}"
    return facts
