"""Content addresses: the hash of every kind of object, with and without self references."""

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.errors import StoreError
from hook.store.content import check_content, counts_positions, hash_modulo
from hook.store.nar import Dumper
from hook.values.info import ContentAddress, PathInfo, check_content_address, format_hash
from hook.values.release import Release
from tests.nixstore import NixStore

MODULUS = b"0c0zrkwjnlrhzdhmjhqsprjf8ia1p9ns"
PATH = f"/nix/store/{MODULUS.decode()}-name"


def _reference(data: bytes) -> tuple[bytes, bytes]:
    """The definition: zero every occurrence, then name its position, or not."""
    positions = []
    at = data.find(MODULUS)
    while at >= 0:
        positions.append(at)
        at = data.find(MODULUS, at + len(MODULUS))
    zeroed = data.replace(MODULUS, bytes(len(MODULUS)))
    named = b"".join(b"|%d" % position for position in positions)
    return hashlib.sha256(zeroed).digest(), hashlib.sha256(zeroed + named).digest()


@given(
    st.lists(st.sampled_from([MODULUS, MODULUS[:16], MODULUS[16:], b"0", b"between"])).map(b"".join),
    st.lists(st.integers(0, 400)),
)
def test_the_hash_does_not_depend_on_how_the_content_arrives(data: bytes, cuts: list[int]) -> None:
    """An occurrence may span two chunks, or more."""
    assert hash_modulo(_cut(data, cuts), "sha256", MODULUS) == _reference(data)


def test_an_occurrence_is_found_wherever_it_is_cut() -> None:
    """At each of its bytes, next to its border, and next to another one."""
    data = b"a" + MODULUS + MODULUS + b"between" + MODULUS
    for cut in range(len(data) + 1):
        assert hash_modulo(iter([data[:cut], data[cut:]]), "sha256", MODULUS) == _reference(data)
    bytewise = (data[at : at + 1] for at in range(len(data)))
    assert hash_modulo(bytewise, "sha256", MODULUS) == _reference(data)


def _cut(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    borders = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in pairwise(borders):
        yield data[start:end]


@pytest.mark.lab
def test_every_content_addressed_object_of_nix_passes(tmp_path: Path) -> None:
    """Text, flat and recursive, SHA-256 and SHA-1, and a tree rewritten to contain its own address."""
    store = NixStore(tmp_path)
    outputs = store.build()
    store.run("nix", "store", "make-content-addressed", "-r", *outputs)
    ours = store.open()
    infos = [info for info in ours.database.path_infos(store.objects()).values() if info.ca]
    assert any(info.path in info.references for info in infos)
    assert {info.ca.rsplit(":", 1)[0] for info in infos} >= {
        "text:sha256",
        "fixed:sha256",
        "fixed:r:sha256",
        "fixed:r:sha1",
    }
    positions = counts_positions(store.release())
    for info in infos:
        claim = check_content_address(info, ours.store_dir)
        assert claim
        check_content(info, claim, ours.real_path(info.path), positions=positions)
        wrong = claim._replace(digest=bytes(len(claim.digest)))
        with pytest.raises(StoreError, match=f"ca hash mismatch importing path '{info.path}';"):
            check_content(info, wrong, ours.real_path(info.path), positions=positions)
    ours.close()


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
def test_a_flat_file_is_hashed_by_its_bytes(tmp_path: Path, algorithm: str) -> None:
    """The executable bit and the NAR around it do not count; a mismatch names both hashes as stock does."""
    file = tmp_path / "file"
    file.write_bytes(b"content" * 300_000)
    digest = hashlib.new(algorithm, b"content" * 300_000).digest()
    info = PathInfo(PATH, None, bytes(32), 120, ())
    check_content(info, ContentAddress("", algorithm, digest), str(file), positions=True)
    file.write_bytes(b"other")
    got = hashlib.new(algorithm, b"other").digest()
    with pytest.raises(StoreError) as caught:
        check_content(info, ContentAddress("", algorithm, digest), str(file), positions=True)
    assert str(caught.value) == (
        f"ca hash mismatch importing path '{PATH}';\n"
        f"  specified: {format_hash(digest, algorithm)}\n"
        f"  got:       {format_hash(got, algorithm)}"
    )


def test_a_flat_address_is_that_of_a_file_only(tmp_path: Path) -> None:
    """A symlink is not followed: what it points to is not in the store object."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"content")
    link = tmp_path / "link"
    link.symlink_to(secret)
    claim = ContentAddress("", "sha256", hashlib.sha256(b"content").digest())
    for path in (link, tmp_path):
        with pytest.raises(StoreError, match=f"cannot check the content of '{PATH}'"):
            check_content(PathInfo(PATH, None, bytes(32), 120, ()), claim, str(path), positions=True)


def test_the_hash_of_a_nar_proves_nothing_about_a_flat_file(tmp_path: Path) -> None:
    """Nor about another algorithm; only that of the same thing need not be computed once more."""
    file = tmp_path / "file"
    file.write_bytes(b"content")
    with Dumper(str(file)) as dumper:
        while dumper.read_into(bytearray(4096)):
            pass
        digest = dumper.digest()
    info = PathInfo(PATH, None, digest, 120, ())
    check_content(info, ContentAddress("r:", "sha256", digest), str(file), positions=True)
    for claim in (ContentAddress("", "sha256", digest), ContentAddress("r:", "sha512", digest)):
        with pytest.raises(StoreError, match="ca hash mismatch"):
            check_content(info, claim, str(file), positions=True)


def test_git_hashes_are_refused(tmp_path: Path) -> None:
    """An unchecked claim must not be registered."""
    with pytest.raises(StoreError, match="git"):
        claim = ContentAddress("git:", "sha1", bytes(20))
        check_content(PathInfo(PATH, None, bytes(32), 120, ()), claim, str(tmp_path), positions=True)


def test_positions_of_self_references_count_or_not(tmp_path: Path) -> None:
    """Whichever the Nix here does; what was made by the other rule is told from what is damaged."""
    file = tmp_path / "file"
    file.write_bytes(b"I am " + MODULUS)
    info = PathInfo(PATH, None, bytes(32), 120, (PATH,))
    zeroed, named = _reference(file.read_bytes())
    plain = hashlib.sha256(file.read_bytes()).digest()
    for positions, right, wrong in ((False, zeroed, named), (True, named, zeroed)):
        check_content(info, ContentAddress("", "sha256", right), str(file), positions=positions)
        with pytest.raises(StoreError, match=r"ca hash mismatch (.|\n)* hashes such objects otherwise"):
            check_content(info, ContentAddress("", "sha256", wrong), str(file), positions=positions)
        with pytest.raises(StoreError, match="ca hash mismatch") as caught:
            check_content(info, ContentAddress("", "sha256", plain), str(file), positions=positions)
        assert "otherwise" not in str(caught.value)


@pytest.mark.parametrize(
    ("release", "count"), [((2, 8), True), ((2, 16), True), ((2, 17), False), ((2, 34), False), ((2, 35), True)]
)
def test_the_rule_is_that_of_the_release(release: Release, count: bool) -> None:
    """Two releases changed it, the second one back."""
    assert counts_positions(release) is count
