"""Path infos, hash texts and content addresses."""

import hashlib
from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.errors import StoreError
from hook.values.info import (
    HASH_SIZES,
    ContentAddress,
    PathInfo,
    check_content_address,
    check_path_info,
    fingerprint,
    format_hash,
    format_hash_hex,
    parse_content_address,
    parse_hash,
)
from hook.values.path import encode_base32, fixed_path, source_path, text_path

STORE = "/nix/store"
OTHER = "/nix/store/0c0zrkwjnlrhzdhmjhqsprjf8ia1p9ns-other"
DIGEST = hashlib.sha256(b"hello\n").digest()


@given(st.sampled_from(sorted(HASH_SIZES)), st.data())
def test_a_hash_reads_the_same_in_every_form(algorithm: str, data: st.DataObject) -> None:
    """Databases hold hex, messages base 32, newer daemons send SRI."""
    size = HASH_SIZES[algorithm]
    digest = data.draw(st.binary(min_size=size, max_size=size))
    for text in (
        format_hash_hex(digest),
        f"{algorithm}:{format_hash_hex(digest)}",
        format_hash(digest, algorithm),
        encode_base32(digest),
        f"{algorithm}-{b64encode(digest).decode()}",
        f"{algorithm}:{b64encode(digest).decode()}",
    ):
        assert parse_hash(text, algorithm) == digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha1:" + "0" * 40,
        "sha256:" + "0" * 63,
        "sha256:" + "g" * 64,
        "sha256:" + "z" * 52,
        "sha256-" + "A" * 43,
        "sha256-" + "A" * 44,
        "sha256-" + "A" * 42 + "é=",
        "0" * 32 + " " + "0" * 31,
    ],
)
def test_what_is_no_sha256_is_refused(text: str) -> None:
    """A hash that cannot be compared must not pass for one that was."""
    with pytest.raises(StoreError):
        parse_hash(text, "sha256")


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/elsewhere"},
        {"references": (OTHER, "/elsewhere")},
        {"deriver": ""},
        {"deriver": "/elsewhere"},
        {"nar_size": 0},
        {"nar_size": 1 << 63},
        {"registration_time": -1},
        {"registration_time": 1 << 63},
        {"signatures": ("key:AA==", "key:")},
        {"signatures": (":AA==",)},
        {"signatures": ("key",)},
        {"signatures": ("two keys:AA==",)},
        {"signatures": (" key:AA==",)},
        {"signatures": ("key:AA== BB==",)},
        {"signatures": ("key:AA\n",)},
    ],
)
def test_what_cannot_be_registered_is_refused(change: dict[str, Any]) -> None:
    """One row that Nix cannot parse makes every query of that path fail, for everybody."""
    good = PathInfo(OTHER, f"{OTHER}.drv", DIGEST, 120, (OTHER,), 7, signatures=("key-1:AA==", "other.org:BB/+"))
    check_path_info(good, STORE)
    with pytest.raises(StoreError):
        check_path_info(replace(good, **change), STORE)


def test_the_fingerprint_is_what_signatures_sign() -> None:
    """Path, hash, size and references in the order and form every Nix verifies."""
    info = PathInfo(f"{OTHER}-b", None, DIGEST, 120, (OTHER, f"{OTHER}-b"))
    assert fingerprint(info) == (
        f"1;{OTHER}-b;sha256:00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq;120;{OTHER},{OTHER}-b"
    )


@pytest.mark.parametrize(
    ("text", "method", "algorithm"),
    [
        (f"text:{format_hash(DIGEST)}", "text:", "sha256"),
        (f"fixed:{format_hash(DIGEST)}", "", "sha256"),
        (f"fixed:r:{format_hash(DIGEST)}", "r:", "sha256"),
        (f"fixed:r:sha1:{encode_base32(DIGEST[:20])}", "r:", "sha1"),
        (f"fixed:git:sha1:{encode_base32(DIGEST[:20])}", "git:", "sha1"),
    ],
)
def test_content_addresses_of_every_method_are_understood(text: str, method: str, algorithm: str) -> None:
    """The field is one text with three grammars."""
    size = HASH_SIZES[algorithm]
    assert parse_content_address(text) == ContentAddress(method, algorithm, DIGEST[:size])


@pytest.mark.parametrize(
    "text",
    ["x", "fixed", "fixed:", "fixed:r:", f"text:r:{format_hash(DIGEST)}", f"text:sha1:{'0' * 40}", "fixed:crc:00",
     f"nar:{format_hash(DIGEST)}", f"fixed:sha256-{'A' * 43}="],
)  # fmt: skip
def test_other_content_addresses_are_refused(text: str) -> None:
    """A claim that is not understood cannot be checked."""
    with pytest.raises(StoreError, match="content address"):
        parse_content_address(text)


@pytest.mark.parametrize("references", [(), (OTHER,)])
@pytest.mark.parametrize("refers_to_itself", [False, True])
def test_a_claim_holds_only_for_the_path_that_follows_from_it(
    references: tuple[str, ...], refers_to_itself: bool
) -> None:
    """Name, hash and references, the self reference included, all go into a path."""
    path = source_path(DIGEST, references, refers_to_itself, "name", STORE)
    info = PathInfo(
        path,
        None,
        bytes(32),
        120,
        (*references, path) if refers_to_itself else references,
        ca=f"fixed:r:{format_hash(DIGEST)}",
    )
    assert check_content_address(info, STORE) == ContentAddress("r:", "sha256", DIGEST)
    for wrong in (
        PathInfo(path[:-1], None, info.nar_hash, 120, info.references, ca=info.ca),
        PathInfo(path, None, info.nar_hash, 120, (*info.references, f"{OTHER}-2"), ca=info.ca),
        PathInfo(path, None, info.nar_hash, 120, info.references, ca=f"fixed:r:{format_hash(bytes(32))}"),
        PathInfo(path, None, info.nar_hash, 120, info.references, ca=f"fixed:{format_hash(DIGEST)}"),
    ):
        with pytest.raises(StoreError, match="claims to be content-addressed but isn't"):
            check_content_address(wrong, STORE)


def test_kinds_that_cannot_refer_to_anything_are_refused_with_references() -> None:
    """Nix computes no path for them, so a claim with references cannot be true."""
    text = text_path(DIGEST, [], "name", STORE)
    flat = fixed_path("", "sha256", DIGEST, "name", STORE)
    for path, ca, references in (
        (text, f"text:{format_hash(DIGEST)}", (text,)),
        (flat, f"fixed:{format_hash(DIGEST)}", (OTHER,)),
        (flat, f"fixed:{format_hash(DIGEST)}", (flat,)),
    ):
        assert check_content_address(PathInfo(path, None, DIGEST, 120, (), ca=ca), STORE)
        with pytest.raises(StoreError, match="claims to be content-addressed but isn't"):
            check_content_address(PathInfo(path, None, DIGEST, 120, references, ca=ca), STORE)


def test_no_claim_needs_no_check() -> None:
    """Most outputs are input-addressed."""
    assert check_content_address(PathInfo(OTHER, None, DIGEST, 120, ()), STORE) is None
