"""The realisations in a store's database: which path an output of a content-addressed derivation turned out to have.

Nix makes the tables when it opens a store with `ca-derivations` enabled, and other ones for each revision of that
experiment, so that several may lie side by side.  All that exist are kept up to date; none is ever created.  Tested in
store/test_realisations.py, with tables made by Nix.
"""

from collections.abc import Collection
from dataclasses import dataclass

from hook.errors import StockOnly
from hook.store.database import Database
from hook.values.path import base_name
from hook.values.realisation import Realisation


@dataclass(frozen=True, slots=True)
class _Table:
    """One revision's table: statements that take its key of a derivation first, and what it keeps signatures of."""

    name: str
    select_valid: str
    delete: str
    insert: str
    signs_drv_path: bool


_BY_HASH = _Table(
    "Realisations",
    "SELECT outputName FROM Realisations JOIN ValidPaths ON outputPath = ValidPaths.id WHERE drvPath = ?",
    "DELETE FROM Realisations WHERE drvPath = ? AND outputName = ?",
    "INSERT INTO Realisations (drvPath, outputName, outputPath, signatures)"
    " VALUES (?, ?, (SELECT id FROM ValidPaths WHERE path = ?), ?)",
    signs_drv_path=False,
)
"""Nix 2.8 to 2.34."""

_BY_PATH = _Table(
    "BuildTraceV3",
    "SELECT outputName FROM BuildTraceV3 JOIN ValidPaths ON outputPath = path WHERE drvPath = ?",
    "DELETE FROM BuildTraceV3 WHERE drvPath = ? AND outputName = ?",
    "INSERT INTO BuildTraceV3 (drvPath, outputName, outputPath, signatures) VALUES (?, ?, ?, ?)",
    signs_drv_path=True,
)
"""From Nix 2.35.  Its rows outlive the paths they name."""


class Realisations:
    """The realisations of one derivation, at `drv_path` and without input derivations.

    `drv_hash` is the one in the ids of its outputs, `sha256:<hex>`.  StockOnly if the database has no table for them.
    """

    def __init__(self, database: Database, drv_path: str, drv_hash: str) -> None:
        self._database = database
        tables = database.tables()
        keys = ((_BY_HASH, drv_hash), (_BY_PATH, base_name(drv_path)))
        self._tables = [(table, key) for table, key in keys if table.name in tables]
        if not self._tables:
            raise StockOnly("the store keeps no realisations that are known here")

    def known(self) -> set[str]:
        """The outputs whose realisations are registered, with valid paths, wherever they have to be."""
        return self._database.transact("BEGIN", lambda: set.intersection(*map(self._valid, self._tables)))

    def register(self, realisations: Collection[Realisation]) -> None:
        """Add `realisations`, whose paths are valid; one that was registered meanwhile stays as it is.

        Each table gets the signatures of its own kind: Nix would take the others for wrong.
        """

        def write() -> None:
            for table, key in self._tables:
                valid = self._valid((table, key))
                for realisation in realisations:
                    name = realisation.id.output_name
                    if name not in valid:
                        self._database.execute(table.delete, (key, name))
                        signed = realisation.signs_drv_path is table.signs_drv_path
                        signatures = " ".join(realisation.signatures) if signed else ""
                        self._database.execute(table.insert, (key, name, realisation.out_path, signatures))

        self._database.transact("BEGIN IMMEDIATE", write)

    def _valid(self, place: tuple[_Table, str]) -> set[str]:
        table, key = place
        return {name for (name,) in self._database.execute(table.select_valid, (key,))}
