"""Realisations: the JSON that daemons before 2.35, from 2.35 on, and this program write."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.errors import StoreError
from hook.values.realisation import (
    OutputId,
    Realisation,
    format_output_id,
    parse_output_id,
    parse_realisation,
)
from tests import oracles

STORE = "/nix/store"
OUT = "0c0zrkwjnlrhzdhmjhqsprjf8ia1p9ns-out"
ID = f"sha256:{'ab' * 32}!out"

ids = st.builds(
    OutputId,
    st.binary(min_size=32, max_size=32).map(lambda digest: f"sha256:{digest.hex()}"),
    st.text(st.characters(exclude_characters="!", exclude_categories=["Cs"]), min_size=1, max_size=5),
)
paths = st.sampled_from([f"{STORE}/{OUT}", f"{STORE}/{OUT}-2"])
realisations = st.builds(
    Realisation,
    ids,
    paths,
    st.sets(st.text(st.characters(exclude_categories=["Cs"]))).map(lambda signatures: tuple(sorted(signatures))),
    st.dictionaries(ids, paths, max_size=3),
)


@given(realisations)
def test_a_realisation_survives_its_json(realisation: Realisation) -> None:
    """What is registered here must be what the machine reported."""
    assert parse_realisation(oracles.realisation(realisation), STORE) == realisation


@given(ids)
def test_an_output_id_survives_its_text(output_id: OutputId) -> None:
    """Ids are keys of the map that a build result carries."""
    assert parse_output_id(format_output_id(output_id)) == output_id


def test_the_short_form_is_understood() -> None:
    """Newer daemons leave out what older clients do not need."""
    parsed = parse_realisation(json.dumps({"id": ID, "outPath": OUT}).encode(), STORE)
    assert parsed == Realisation(parse_output_id(ID), f"{STORE}/{OUT}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        json.dumps({"id": ID}),
        json.dumps({"id": 3, "outPath": OUT}),
        json.dumps({"id": "sha256:00!out", "outPath": OUT}),
        json.dumps({"id": ID, "outPath": "../../etc"}),
        json.dumps({"id": ID, "outPath": f"/nix/store/{OUT}"}),
        "[" * 100_000,
        json.dumps({"id": ID, "outPath": OUT, "signatures": 3}),
        json.dumps({"id": ID, "outPath": OUT, "signatures": [3]}),
        json.dumps({"id": ID, "outPath": OUT, "dependentRealisations": []}),
        json.dumps({"id": ID, "outPath": OUT, "dependentRealisations": {ID: 3}}),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """A machine's JSON decides which path becomes an output."""
    with pytest.raises(StoreError):
        parse_realisation(text, STORE)


@pytest.mark.parametrize(
    "text", ["", "out", "!", f"sha256:{'ab' * 32}", f"sha256:{'ab' * 32}!", f"{ID}!x", "sha256:xy!out"]
)
def test_other_texts_are_no_output_ids(text: str) -> None:
    """Exactly one `!`, a whole SHA-256 before it and a name behind it."""
    with pytest.raises(StoreError, match="output id"):
        parse_output_id(text)
