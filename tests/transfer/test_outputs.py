"""Outputs whose paths are known only after the build: what of the machine's word is taken, and what is registered.

Whole sessions against scripted machines, as in test_session.py; Nix itself follows in tests/parity.
"""

import fcntl
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hook.errors import Cancelled
from hook.transfer.outputs import Ahead, Outputs
from hook.values.derivation import resolved_hash
from hook.values.info import PathInfo
from hook.values.path import base_name
from tests.fakes.bench import Bench, Outcome

FEATURE = {"experimental_features": "nix-command ca-derivations"}
BY_HASH = (
    "select drvPath, outputName, path, signatures from Realisations join ValidPaths on outputPath = ValidPaths.id"
    " order by outputName"
)
BY_PATH = "select drvPath, outputName, outputPath, signatures from BuildTraceV3 order by outputName"


class Floating(Bench):
    """A bench whose derivation has two floating outputs, the second of which refers to the first."""

    def __init__(self, root: Path, *tables: str, broker: bool = False) -> None:
        super().__init__(root, broker=broker)
        self.drv_path, self.derivation = self.store.add_floating(*tables or ["Realisations"])
        self.key = f"sha256:{resolved_hash(self.derivation).hex()}"

    def make(self, *behaviours: str) -> Outcome:
        """Build the derivation on machines that behave like this."""
        machines = [self.machine(behaviour, str(index)) for index, behaviour in enumerate(behaviours)]
        return self.build(*machines, drv_path=self.drv_path, **FEATURE)

    def built(self) -> dict[str, str]:
        """The registered outputs."""
        return {str(name): str(path) for _, name, path, _ in self.store.rows(BY_HASH)}

    def untouched(self) -> bool:
        """Whether nothing was registered."""
        return self.built() == {} and not any("floating" in path for path in self.store.valid() - {self.drv_path})


@pytest.fixture(params=[False, True], ids=["standalone", "broker"])
def floating(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Floating]:
    with Floating(tmp_path, broker=request.param) as bench:
        yield bench


def test_floating_outputs_are_imported_and_their_realisations_registered(floating: Floating) -> None:
    """Under the id computed here: what a machine says is its output's id is not always true."""
    outcome = floating.make("ok")
    assert outcome.answers == ["# accept"]
    assert outcome.status == 0
    (first_key, dev, dev_path, signatures), (second_key, out, out_path, _) = floating.store.rows(BY_HASH)
    assert (first_key, second_key, dev, out) == (floating.key, floating.key, "dev", "out")
    assert signatures == "key-1:c2ln"
    assert floating.store.content(str(out_path)) == "out"
    assert floating.store.content(str(dev_path)) == f"dev {out_path}"
    assert floating.store.rows(
        "select b.path from Refs join ValidPaths a on referrer = a.id join ValidPaths b on"
        f" reference = b.id where a.path = '{dev_path}'"
    ) == [(out_path,)]
    assert list(floating.store.real.glob("*.lock")) == []


@pytest.mark.parametrize(
    ("machine", "by_hash", "by_path"), [("ok", "key-1:c2ln", ""), ("nix-2.35", "", "key-1:cGF0aA==")]
)
def test_signatures_are_kept_where_they_can_be_verified(
    tmp_path: Path, machine: str, by_hash: str, by_path: str
) -> None:
    """Machines before Nix 2.35 sign something else than those since; after a change of the release there are both
    tables here, and each output is known in both."""
    floating = Floating(tmp_path, "Realisations", "BuildTraceV3")
    assert floating.make(machine).status == 0
    in_old, in_new = floating.store.rows(BY_HASH), floating.store.rows(BY_PATH)
    assert [(key, name) for key, name, _, _ in in_old] == [(floating.key, "dev"), (floating.key, "out")]
    assert [(key, name) for key, name, _, _ in in_new] == [
        (base_name(floating.drv_path), "dev"),
        (base_name(floating.drv_path), "out"),
    ]
    assert [path for _, _, path, _ in in_old] == [path for _, _, path, _ in in_new]
    assert {signatures for *_, signatures in in_old} == {by_hash}
    assert {signatures for *_, signatures in in_new} == {by_path}


@pytest.mark.parametrize("table", ["Realisations", "BuildTraceV3"])
@pytest.mark.parametrize("machine", ["ok", "nix-2.35"])
def test_either_table_will_do(tmp_path: Path, machine: str, table: str) -> None:
    """Whichever Nix is here, and whichever is there."""
    floating = Floating(tmp_path, table)
    assert floating.make(machine).status == 0
    assert [name for _, name, *_ in floating.store.rows(f"select 1, outputName from {table} order by 2")] == [
        "dev",
        "out",
    ]


def test_what_is_known_already_is_neither_fetched_nor_replaced(floating: Floating) -> None:
    """Only one of the outputs is missing: the other's row and path stay the ones they are."""
    assert floating.make("ok").status == 0
    before = floating.store.rows("select * from Realisations where outputName = 'out'")
    dev = floating.built()["dev"]
    floating.store.delete(dev)
    outcome = floating.make("ok")
    assert outcome.status == 0
    assert floating.built()["dev"] == dev
    assert floating.store.rows("select * from Realisations where outputName = 'out'") == before
    copied = [text for text in outcome.texts if text.startswith("copying path") and " from " in text]
    assert [text.split("'")[1] for text in copied] == [dev]


REFUSED = {
    "no-address": "is not content-addressed there",
    "wrong-address": "hash mismatch",
    "other-names": "is not named like it",
    "reports-nothing": "did not say where output 'dev' is",
    "reports-nonsense": "cannot be used",
    "wild-reference": "00000000000000000000000000000008-nobody-has",
    "wrong-hash": "hash mismatch",
    "output-missing": "not valid there after its build",
}


@pytest.mark.parametrize("behaviour", [*sorted(REFUSED), "nix-2.35,reports-nonsense", "nix-2.35,other-names"])
def test_a_machines_word_is_taken_only_for_what_its_content_proves(floating: Floating, behaviour: str) -> None:
    """Otherwise it could put any content at any path that is not valid yet."""
    outcome = floating.make(behaviour)
    assert outcome.status == 1
    assert REFUSED[behaviour.removeprefix("nix-2.35,")] in outcome.messages
    assert floating.untouched()
    assert floating.make("ok").status == 0


def test_a_failed_build_registers_nothing(floating: Floating) -> None:
    outcome = floating.make("build-fails", "ok")
    assert outcome.status == 1
    assert outcome.messages.count("builder failed with exit code 3") == 1
    assert floating.untouched()


def test_a_machine_too_old_to_report_outputs_is_left_out(floating: Floating) -> None:
    """Before the accept, so that another machine can be chosen."""
    outcome = floating.make("nix-2.3", "ok")
    assert outcome.status == 0
    assert "too old for content-addressed derivations" in outcome.messages
    assert len(floating.built()) == 2


def test_a_path_that_somebody_else_imports_is_waited_for(floating: Floating, tmp_path: Path) -> None:
    """The parent has locked the output by its name only: two builds may come to the same path at once."""
    assert floating.make("ok").status == 0
    out = floating.built()["out"]
    for path in floating.built().values():
        floating.store.delete(path)
    data = floating.preamble([floating.machine("ok")], **FEATURE) + floating.request(floating.drv_path) + floating.job()
    lock = floating.store.real / f"{base_name(out)}.lock"
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        hook = floating.start(data)
        assert hook.stdin is not None
        assert hook.stderr is not None
        hook.stdin.close()
        said = b""
        while f"waiting for lock on '{floating.store.real}/{base_name(out)}'".encode() not in said:
            line = hook.stderr.readline()
            assert line, said
            said += line
        assert out not in floating.store.valid()
        lock.unlink()
        other.write("d")
    rest = hook.stderr.read()
    hook.stderr.close()
    assert hook.wait() == 0, rest
    assert set(floating.built()) == {"dev", "out"}
    assert not lock.exists()


# What is left to the stock hook


@pytest.mark.parametrize(
    ("tables", "features", "reason"),
    [
        ([], "ca-derivations", "keeps no realisations"),
        (["Realisations"], "nix-command", "its outputs are floating"),
    ],
)
def test_without_tables_or_the_feature_the_stock_hook_decides(
    tmp_path: Path, tables: list[str], features: str, reason: str
) -> None:
    """Tables are Nix's to make, and without them there is no place for what was learnt."""
    with Bench(tmp_path, broker=False) as bench:
        drv_path, _ = bench.store.add_floating(*tables)
        data = bench.preamble([bench.machine("ok")], experimental_features=features) + bench.request(drv_path)
        outcome = bench.hook(data, PATH=str(tmp_path))
    assert outcome.answers == ["# decline-permanently"]
    assert reason in outcome.messages


@pytest.mark.parametrize(("algorithm", "digest", "kind"), [("", "", "deferred"), ("r:sha256", "impure", "impure")])
def test_kinds_that_are_not_handled_go_to_the_stock_hook(
    tmp_path: Path, algorithm: str, digest: str, kind: str
) -> None:
    with Bench(tmp_path, broker=False) as bench:
        drv_path, _ = bench.store.add_floating("Realisations", algorithm=algorithm, digest=digest)
        data = bench.preamble([bench.machine("ok")], **FEATURE) + bench.request(drv_path)
        outcome = bench.hook(data, PATH=str(tmp_path))
    assert outcome.answers == ["# decline-permanently"]
    assert f"its outputs are {kind}" in outcome.messages


def test_what_has_arrived_becomes_valid_only_after_the_block(tmp_path: Path) -> None:
    """All together, and not at all if something goes wrong meanwhile: whoever tells of it may be cancelled."""
    infos = [PathInfo(f"/nix/store/{number:032}-file", None, b"", 1, ()) for number in range(2)]
    paths = {info.path for info in infos}
    events: list[object] = []

    class Store:
        database = SimpleNamespace(valid_among=lambda paths: set())

        def commit(self, imported: list[PathInfo]) -> None:
            events.append([info.path for info in imported])

    class Ready(Outputs):
        def _copy(self, *_: object) -> list[PathInfo]:
            events.append("copied")
            return infos

    derivation = cast(Any, SimpleNamespace(outputs=[(str(path), SimpleNamespace(path=path)) for path in paths]))
    outputs = Ready(derivation, cast(Any, SimpleNamespace(store=Store(), log=None)))
    ahead = Ahead({path: cast(Any, None) for path in paths})
    with outputs.fetched(cast(Any, None), paths, cast(Any, None), ahead):
        events.append("told")
    assert events == ["copied", "told", [info.path for info in infos]]
    events.clear()
    with pytest.raises(Cancelled), outputs.fetched(cast(Any, None), paths, cast(Any, None), ahead):
        raise Cancelled
    assert events == ["copied"]
