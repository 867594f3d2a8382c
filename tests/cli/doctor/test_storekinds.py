"""Which kinds of stores there are, and what a mistyped one may be meant to be."""

import pytest

from hook.cli.doctor.storekinds import is_for_stock, unknown
from hook.values.storeuri import parse_store_uri


@pytest.mark.parametrize(
    ("scheme", "guess"), [("sshng", "ssh-ng"), ("SSH-NG", "ssh-ng"), ("shh", "ssh"), ("htps", "https")]
)
def test_a_mistyped_kind_is_guessed(scheme: str, guess: str) -> None:
    text = f"no Nix knows stores of the kind '{scheme}': did you mean '{guess}'?"
    assert unknown(parse_store_uri(f"{scheme}://host", (2, 34))) == text


def test_what_resembles_nothing_is_not_guessed() -> None:
    assert unknown(parse_store_uri("gopher://host", (2, 34))) == "no Nix knows stores of the kind 'gopher'"


@pytest.mark.parametrize(
    "address", ["ssh-ng://b", "ssh://b", "b", "daemon", "/srv/store", "local?root=/x", "auto", "unix://"]
)
def test_what_we_speak_is_known(address: str) -> None:
    uri = parse_store_uri(address, (2, 34))
    assert (unknown(uri), is_for_stock(uri)) == ("", False)


@pytest.mark.parametrize("address", ["mounted-ssh-ng://b", "https://cache.example", "s3://bucket", "file:///cache"])
def test_what_only_stock_speaks_is_known(address: str) -> None:
    uri = parse_store_uri(address, (2, 34))
    assert (unknown(uri), is_for_stock(uri)) == ("", True)
