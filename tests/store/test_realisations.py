"""Realisations in the database: what we read and write is what Nix reads and writes."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from hook.errors import StockOnly
from hook.store.database import Database
from hook.store.realisations import Realisations
from hook.values.derivation import resolved_hash
from hook.values.path import base_name
from hook.values.realisation import OutputId, Realisation
from tests.fakes.store import REALISATIONS
from tests.nixstore import NixStore

pytestmark = pytest.mark.lab

FLOATING = """
derivation {
  name = "floating"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  outputs = [ "out" "dev" ]; args = [ "-ec" "echo out > $out; echo $out > $dev" ];
  __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
}
"""
BY_HASH = (
    "select drvPath, outputName, path, signatures from Realisations"
    " join ValidPaths on outputPath = ValidPaths.id order by outputName"
)
BY_PATH = "select drvPath, outputName, outputPath, signatures from BuildTraceV3 order by outputName"


class Built(NixStore):
    """A store in which Nix has built a derivation with two floating outputs."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (root / "floating.nix").write_text(FLOATING)
        (self.drv_path,) = self.lines("nix-instantiate", str(root / "floating.nix"))
        self.run("nix-store", "--realise", self.drv_path)
        self.key = f"sha256:{resolved_hash(self.open().read_derivation(self.drv_path)).hex()}"
        self.paths = {name: path for _, name, path, _ in self.rows(BY_HASH)}

    def realisation(self, name: str, *signatures: str, path: str = "") -> Realisation:
        return Realisation(OutputId(self.key, name), path or self.paths[name], signatures)

    def sql(self, script: str) -> None:
        with sqlite3.connect(self.state_dir / "db/db.sqlite") as connection:
            connection.executescript(script)
        connection.close()


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return Built(tmp_path / "built")


@pytest.fixture
def database(built: Built) -> Iterator[Database]:
    with Database.open(str(built.state_dir)) as opened:
        yield opened


def test_what_nix_has_built_is_known(built: Built, database: Database) -> None:
    """Under the key computed here."""
    assert Realisations(database, built.drv_path, built.key).known() == {"dev", "out"}
    assert Realisations(database, built.drv_path, f"sha256:{'0' * 64}").known() == set()


def test_what_we_register_is_what_nix_registers(built: Built, database: Database) -> None:
    before = built.rows(BY_HASH)
    built.sql("delete from Realisations")
    realisations = Realisations(database, built.drv_path, built.key)
    assert realisations.known() == set()
    realisations.register([built.realisation("dev"), built.realisation("out")])
    assert built.rows(BY_HASH) == before
    assert built.rows("select typeof(signatures) from Realisations") == [("text",), ("text",)]
    found = built.run("nix-store", "--realise", built.drv_path)
    assert sorted(found.stdout.decode().split()) == sorted(built.paths.values())
    assert b"building" not in found.stderr


def test_signatures_are_words_of_one_text(built: Built, database: Database) -> None:
    built.sql("delete from Realisations")
    Realisations(database, built.drv_path, built.key).register([built.realisation("out", "a-1:c2ln", "b-1:c2ln")])
    assert built.rows("select outputName, signatures from Realisations") == [("out", "a-1:c2ln b-1:c2ln")]


def test_what_was_registered_meanwhile_stays(built: Built, database: Database) -> None:
    """Two builds of one derivation may differ; the first one is what others have built on."""
    before = built.rows("select * from Realisations")
    Realisations(database, built.drv_path, built.key).register([built.realisation("out", path=built.paths["dev"])])
    assert built.rows("select * from Realisations") == before


def test_all_tables_are_kept_up_to_date(built: Built, database: Database) -> None:
    """An output counts as known only where every release of Nix in use on this store would find it."""
    built.sql(REALISATIONS["BuildTraceV3"])
    realisations = Realisations(database, built.drv_path, built.key)
    assert realisations.known() == set()
    before = built.rows("select * from Realisations")
    realisations.register([built.realisation("dev"), built.realisation("out")])
    assert built.rows("select * from Realisations") == before
    drv_name = base_name(built.drv_path)
    assert built.rows(BY_PATH) == [(drv_name, name, built.paths[name], "") for name in ("dev", "out")]
    assert realisations.known() == {"dev", "out"}


def test_a_row_that_outlived_its_path_is_replaced(built: Built, database: Database) -> None:
    """The newer table does not notice when a path is deleted."""
    drv_name, gone = base_name(built.drv_path), f"{built.store_dir}/{'0' * 32}-gone"
    built.sql(
        f"drop table RealisationsRefs; drop table Realisations; {REALISATIONS['BuildTraceV3']}"
        f"insert into BuildTraceV3 values (1, '{drv_name}', 'out', '{gone}', 'key-1:c2ln')"
    )
    realisations = Realisations(database, built.drv_path, built.key)
    assert realisations.known() == set()
    realisations.register([built.realisation("out")])
    assert built.rows(BY_PATH) == [(drv_name, "out", built.paths["out"], "")]


def test_without_a_table_it_is_for_the_stock_hook(built: Built, database: Database) -> None:
    """Nix alone knows what to create, and when."""
    built.sql("drop table RealisationsRefs; drop table Realisations")
    with pytest.raises(StockOnly):
        Realisations(database, built.drv_path, built.key)
