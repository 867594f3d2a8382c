"""Store path texts, and paths of content-addressed objects as real Nix computes them."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.errors import StoreError
from hook.values.path import (
    MAX_NAME,
    NAME_CHARS,
    base_name,
    check_store_path,
    decode_base32,
    encode_base32,
    fixed_path,
    hash_part,
    is_valid_name,
    name_of,
    source_path,
    text_path,
)
from tests.nixstore import NixStore

HASH = "0c0zrkwjnlrhzdhmjhqsprjf8ia1p9ns"
STORE = "/nix/store"
names = st.text(st.sampled_from(sorted(NAME_CHARS)), min_size=1, max_size=MAX_NAME).filter(is_valid_name)


@given(st.binary(max_size=70))
def test_base32_round_trips(data: bytes) -> None:
    """Hashes in paths and content addresses pass through here in both directions."""
    assert decode_base32(encode_base32(data)) == data


def test_base32_is_that_of_nix() -> None:
    """The digits run from the last byte to the first; the value is that of `nix hash to-base32`."""
    digest = hashlib.sha256(b"hello\n").digest()
    assert encode_base32(digest) == "00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq"


@pytest.mark.parametrize("text", ["e", "0u", "z", "zz", "000", "z" + "0" * 51, "ä" * 8])
def test_base32_refuses_what_it_never_writes(text: str) -> None:
    """Digits outside the alphabet, lengths no bytes encode to, and set bits beyond the last byte."""
    with pytest.raises(StoreError, match="base-32"):
        decode_base32(text)


@given(names)
def test_a_path_is_taken_apart_into_what_it_was_made_of(name: str) -> None:
    """Hash and name together are the whole base name."""
    path = check_store_path(f"{STORE}/{HASH}-{name}", STORE)
    assert (base_name(path), hash_part(path), name_of(path)) == (f"{HASH}-{name}", HASH, name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/nix/store",
        "/nix/store/",
        f"/nix/store/{HASH}",
        f"/nix/store/{HASH}-",
        f"/nix/store/{HASH[1:]}-name",
        f"/nix/store/{HASH}0-name",
        f"/nix/store/{HASH.replace('0', 'e')}-name",
        f"/nix/store/{HASH.upper()}-name",
        f"/nix/store/{HASH}-name/bin",
        f"/nix/store/{HASH}-na me",
        f"/nix/store/{HASH}-name\n",
        f"/nix/store/{HASH}-näme",
        f"/nix/store/{HASH}-\udcff",
        f"/nix/store/{HASH}-.",
        f"/nix/store/{HASH}-..",
        f"/nix/store/{HASH}-.-x",
        f"/nix/store/{HASH}-..-x",
        f"/nix/store/{HASH}-{'x' * 212}",
        f"/nix/store/../{HASH}-name",
        f"/nix/store2/{HASH}-name",
        f"/other/store/{HASH}-name",
        f"{HASH}-name",
    ],
)
def test_what_is_no_store_path_is_refused_and_quoted(text: str) -> None:
    """Paths come from the parent and from machines, and become names of files to delete and to write."""
    with pytest.raises(StoreError) as caught:
        check_store_path(text, STORE)
    assert f"'{text}'" in str(caught.value)


@pytest.mark.parametrize("name", [".config", "...", "..x", "-", "a" * 211, "a+b-._?=Z9"])
def test_odd_names_that_nix_allows_are_allowed(name: str) -> None:
    """A stricter rule would make somebody's derivation unbuildable here."""
    assert check_store_path(f"{STORE}/{HASH}-{name}", STORE)


@pytest.mark.lab
def test_content_addressed_paths_are_those_of_nix(tmp_path: Path) -> None:
    """Every kind of address, computed from the content and compared with what Nix says the path is."""
    store = NixStore(tmp_path / "nix")
    store_dir = str(store.store_dir)
    content = b"content\n"
    file = tmp_path / "file"
    file.write_bytes(content)
    for algorithm in ("md5", "sha1", "sha256", "sha512"):
        digest = hashlib.new(algorithm, content).digest()
        flat, recursive = (
            store.lines("nix-store", "--print-fixed-path", *option, algorithm, digest.hex(), "file")[0]
            for option in ((), ("--recursive",))
        )
        assert fixed_path("", algorithm, digest, "file", store_dir) == flat
        if algorithm == "sha256":
            assert source_path(digest, [], False, "file", store_dir) == recursive
        else:
            assert fixed_path("r:", algorithm, digest, "file", store_dir) == recursive
    other, text = (
        store.lines("nix-instantiate", "--eval", "--expr", expression)[0].strip('"')
        for expression in (
            'builtins.toFile "other" "x"',
            'builtins.toFile "text" "${builtins.toFile "other" "x"}"',
        )
    )
    assert text_path(hashlib.sha256(b"x").digest(), [], "other", store_dir) == other
    assert text_path(hashlib.sha256(other.encode()).digest(), [other], "text", store_dir) == text
