"""Check that a store object has the content its content address claims.

Reads the restored tree once more, except where the NAR hash, known already, settles it.  Self references count as
zeros, so that an object can contain its own address; whether their positions count, too, depends on the release of Nix.
An object made by the other rule is refused: Nix would copy it to nowhere, and could not verify it.  Tested in
store/test_content.py.
"""

import hashlib
import os
from collections.abc import Iterator

from hook.errors import StoreError
from hook.store.nar import Dumper
from hook.values.info import ContentAddress, PathInfo, format_hash
from hook.values.path import hash_part
from hook.values.release import Release

CHUNK_BYTES = 1 << 20

POSITIONS_FORGOTTEN: Release = (2, 17)
POSITIONS_AGAIN: Release = (2, 35)
"""From the first of these releases up to the second, positions do not count.

Source: https://github.com/NixOS/nix/issues/15837
"""


def counts_positions(release: Release) -> bool:
    """Whether this release of Nix has the positions of self references count."""
    return not POSITIONS_FORGOTTEN <= release < POSITIONS_AGAIN


def check_content(info: PathInfo, claim: ContentAddress, real_path: str, *, positions: bool) -> None:
    """StoreError unless what lies at `real_path`, whose NAR hash is that of `info`, hashes to `claim`.

    `positions`: those of self references count.
    """
    # A NAR with self references cannot have the claimed hash both with and without them zeroed.
    if claim.method == "r:" and claim.algorithm == "sha256" and claim.digest == info.nar_hash:
        return
    if claim.method == "git:":
        raise StoreError(f"cannot check '{info.path}': git hashes are not supported")
    chunks = _nar_chunks(real_path) if claim.method == "r:" else _file_chunks(real_path)
    try:
        zeroed, named = hash_modulo(chunks, claim.algorithm, hash_part(info.path).encode())
    except OSError as error:
        raise StoreError(f"cannot check the content of '{info.path}': {error.strerror}") from error
    digest, other = (named, zeroed) if positions else (zeroed, named)
    if claim.digest != digest:
        why = "\nIt refers to itself, and was made by a Nix that hashes such objects otherwise than the one here."
        raise StoreError(
            f"ca hash mismatch importing path '{info.path}';\n"
            f"  specified: {format_hash(claim.digest, claim.algorithm)}\n"
            f"  got:       {format_hash(digest, claim.algorithm)}" + (why if claim.digest == other else "")
        )


def hash_modulo(chunks: Iterator[bytes | memoryview], algorithm: str, modulus: bytes) -> tuple[bytes, bytes]:
    """The hash of the concatenated `chunks` with `modulus` zeroed; then that hash, going on with its positions.

    Without an occurrence of `modulus` both are the plain hash.
    """
    # Nix hashes with MD5 and SHA-1 where a derivation says so; nothing here relies on them for security.
    digest = hashlib.new(algorithm, usedforsecurity=False)
    zeros = bytes(len(modulus))
    positions: list[int] = []
    hashed = 0
    held = b""
    for chunk in chunks:
        window = bytearray(held)
        window += chunk
        at = window.find(modulus)
        while at >= 0:
            positions.append(hashed + at)
            window[at : at + len(modulus)] = zeros
            at = window.find(modulus, at + len(modulus))
        # An occurrence may continue in the next chunk.
        settled = max(len(window) - len(modulus) + 1, 0)
        digest.update(memoryview(window)[:settled])
        hashed += settled
        held = bytes(window[settled:])
    digest.update(held)
    zeroed = digest.digest()
    for position in positions:
        digest.update(b"|%d" % position)
    return zeroed, digest.digest()


def _nar_chunks(path: str) -> Iterator[memoryview]:
    buffer = bytearray(CHUNK_BYTES)
    with Dumper(path, hashing=False) as dumper:
        while size := dumper.read_into(buffer):
            yield memoryview(buffer)[:size]


def _file_chunks(path: str) -> Iterator[bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while chunk := os.read(fd, CHUNK_BYTES):
            yield chunk
    finally:
        os.close(fd)
