"""Which inputs only a trusted user can send, found from a derivation in a small store."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hook.store.local import LocalStore
from hook.store.location import find_store
from hook.transfer.unsigned import unsigned_inputs
from hook.values.derivation import DerivationOutput, format_derivation
from hook.values.settings import Settings
from tests.fakes.store import FakeStore

OUTPUT = f"/nix/store/{'0' * 31}3-lib"


@pytest.fixture
def fake(tmp_path: Path) -> FakeStore:
    return FakeStore(tmp_path)


@pytest.fixture
def store(fake: FakeStore) -> Iterator[LocalStore]:
    store = LocalStore(find_store(f"local?root={fake.root}", {}), Settings({}))
    yield store
    store.close()


def test_what_is_content_addressed_or_signed_is_taken_from_anybody(fake: FakeStore, store: LocalStore) -> None:
    assert unsigned_inputs(store, fake.derivation) == []
    fake.vouch(fake.source, "", "key:c2ln")
    assert unsigned_inputs(store, fake.derivation) == []
    fake.vouch(fake.source)
    assert unsigned_inputs(store, fake.derivation) == [fake.source]


def test_outputs_of_other_derivations_count_with_all_they_refer_to(fake: FakeStore, store: LocalStore) -> None:
    """What was built here is the usual case."""
    built = replace(
        fake.derivation, outputs=(("dev", DerivationOutput(f"{OUTPUT}-dev")), ("out", DerivationOutput(OUTPUT)))
    )
    fake.register(OUTPUT, b"lib\n", [fake.source])
    for path in (OUTPUT, fake.source):
        fake.vouch(path)
    drv_path = fake.add(format_derivation(built), "lib.drv", [])
    user = replace(fake.derivation, input_srcs=(), input_drvs=((drv_path, ("out",)),))
    assert unsigned_inputs(store, user) == sorted([OUTPUT, fake.source])


def test_a_derivation_that_is_not_there_says_nothing(fake: FakeStore, store: LocalStore) -> None:
    """Nix will say what was meant."""
    user = replace(fake.derivation, input_drvs=((f"/nix/store/{'0' * 31}4-gone.drv", ("out",)),))
    assert unsigned_inputs(store, user) == []
