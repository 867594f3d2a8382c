"""A small local store made by hand: a schema-10 database, one source file, derivations that read it."""

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from hook.store.nar import Dumper
from hook.values.derivation import Derivation, DerivationOutput, format_derivation
from hook.values.path import text_path

SCHEMA = """
create table ValidPaths (
    id integer primary key autoincrement not null, path text unique not null, hash text not null,
    registrationTime integer not null, deriver text, narSize integer, ultimate integer, sigs text, ca text);
create table Refs (
    referrer integer not null, reference integer not null, primary key (referrer, reference),
    foreign key (referrer) references ValidPaths(id) on delete cascade,
    foreign key (reference) references ValidPaths(id) on delete restrict);
create table DerivationOutputs (
    drv integer not null, id text not null, path text not null, primary key (drv, id),
    foreign key (drv) references ValidPaths(id) on delete cascade);
"""
REALISATIONS = {
    "Realisations": """
create table Realisations (
    id integer primary key autoincrement not null, drvPath text not null, outputName text not null,
    outputPath integer not null, signatures text,
    foreign key (outputPath) references ValidPaths(id) on delete cascade);
""",
    "BuildTraceV3": """
create table BuildTraceV3 (
    id integer primary key autoincrement not null, drvPath text not null, outputName text not null,
    outputPath text not null, signatures text);
""",
}
"""What Nix adds with `ca-derivations`: until 2.34, and from 2.35."""

OUT_HASH = "0" * 31


class FakeStore:
    """A store at `root` as `local?root=` describes it; `drv_path` is valid and `source` is its only input."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.real = root / "nix/store"
        self.state = root / "nix/var/nix"
        (self.state / "db").mkdir(parents=True)
        self.real.mkdir(parents=True)
        (self.state / "db/schema").write_text("10")
        with self._database() as database:
            database.executescript(SCHEMA)
            database.execute("pragma journal_mode = wal")
        self.source = self.add(b"input\n", "input.txt")
        self.outputs = {"dev": f"/nix/store/{OUT_HASH}1-tiny-dev", "out": f"/nix/store/{OUT_HASH}2-tiny"}
        self.derivation = Derivation(
            outputs=tuple((name, DerivationOutput(path)) for name, path in self.outputs.items()),
            input_drvs=(),
            input_srcs=(self.source,),
            system="x86_64-linux",
            builder=b"/bin/sh",
            args=(b"-c", b"true"),
            env=(),
        )
        self.drv_path = self.add(format_derivation(self.derivation), "tiny.drv", [self.source])

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """The database, in a transaction that ends with the block, and closed afterwards."""
        with closing(sqlite3.connect(self.state / "db/db.sqlite")) as database, database:
            yield database

    def add_derivation(self, name: str) -> tuple[str, str]:
        """Add a derivation with one output, which is not valid; returns its path and the output's."""
        path = text_path(hashlib.sha256(name.encode()).digest(), [], name, "/nix/store")
        derivation = replace(self.derivation, outputs=(("out", DerivationOutput(path)),))
        return self.add(format_derivation(derivation), f"{name}.drv", [self.source]), path

    def add_floating(self, *tables: str, algorithm: str = "r:sha256", digest: str = "") -> tuple[str, Derivation]:
        """Add a derivation whose outputs are content-addressed, and `tables` to keep their realisations."""
        output = DerivationOutput("", algorithm, digest)
        floating = replace(self.derivation, outputs=tuple((name, output) for name in self.outputs))
        with self._database() as database:
            for table in tables:
                database.executescript(REALISATIONS[table])
        return self.add(format_derivation(floating), "floating.drv", [self.source]), floating

    def add(self, content: bytes, name: str, references: Sequence[str] = ()) -> str:
        path = text_path(hashlib.sha256(content).digest(), references, name, "/nix/store")
        self.register(path, content, references)
        return path

    def register(self, path: str, content: bytes, references: Sequence[str] = ()) -> None:
        """Make `path` valid, a file with this content."""
        file = self.real / path.removeprefix("/nix/store/")
        file.write_bytes(content)
        file.chmod(0o444)
        with Dumper(str(file)) as dumper:
            while dumper.read_into(bytearray(65536)):
                pass
            digest, size = dumper.digest().hex(), dumper.size
        ca = f"text:sha256:{hashlib.sha256(content).hexdigest()}"
        with self._database() as database:
            database.execute(
                "insert into ValidPaths (path, hash, registrationTime, narSize, ca) values (?, ?, 1, ?, ?)",
                (path, f"sha256:{digest}", size, ca),
            )
            database.executemany(
                "insert into Refs select a.id, b.id from ValidPaths a, ValidPaths b where a.path = ? and b.path = ?",
                [(path, reference) for reference in references],
            )

    def vouch(self, path: str, ca: str = "", *signatures: str) -> None:
        """Change what speaks for a valid path: its content address, and who has signed it."""
        with self._database() as database:
            values = ca or None, " ".join(signatures) or None, path
            database.execute("update ValidPaths set ca = ?, sigs = ? where path = ?", values)

    def delete(self, path: str) -> None:
        """Make `path` invalid, as a garbage collection would."""
        with self._database() as database:
            database.execute("pragma foreign_keys = on")
            database.execute("delete from ValidPaths where path = ?", (path,))
        (self.real / path.removeprefix("/nix/store/")).unlink()

    def empty(self, table: str) -> None:
        """Delete all rows of a table."""
        with self._database() as database:
            database.execute(f"delete from {table}")

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """The result of a query."""
        with self._database() as database:
            return database.execute(query).fetchall()

    def valid(self) -> set[str]:
        """Every path registered now."""
        return {str(path) for (path,) in self.rows("select path from ValidPaths")}

    def nar_size(self, path: str) -> int:
        """The size that is registered of a valid path."""
        return int(str(dict(self.rows("select path, narSize from ValidPaths"))[path]))

    def content(self, path: str) -> str:
        return (self.real / path.removeprefix("/nix/store/")).read_text()
