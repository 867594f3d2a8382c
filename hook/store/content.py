"""Check that a store object has the content its content address claims.

Reads the restored tree once more, except where the NAR hash, known already, settles it.  Self references count as
zeros, followed by their positions, so that an object can contain its own address.  Tested in test_store_content.py.
"""

import hashlib
import os
from collections.abc import Iterator

from hook.errors import StoreError
from hook.nar import Dumper
from hook.store.info import ContentAddress, PathInfo, format_hash
from hook.store.path import hash_part

CHUNK_BYTES = 1 << 20


def check_content(info: PathInfo, claim: ContentAddress, real_path: str) -> None:
    """StoreError unless what lies at `real_path`, whose NAR hash is that of `info`, hashes to `claim`."""
    # A NAR with self references cannot have the claimed hash both with and without them zeroed.
    if claim.method == "r:" and claim.algorithm == "sha256" and claim.digest == info.nar_hash:
        return
    if claim.method == "git:":
        raise StoreError(f"cannot check '{info.path}': git hashes are not supported")
    chunks = _nar_chunks(real_path) if claim.method == "r:" else _file_chunks(real_path)
    try:
        zeroed, digest = hash_modulo(chunks, claim.algorithm, hash_part(info.path).encode())
    except OSError as error:
        raise StoreError(f"cannot check the content of '{info.path}': {error.strerror}") from error
    # Nix 2.17 to 2.34 forgets the positions (https://github.com/NixOS/nix/issues/15837), and which Nix made the object
    # is not known here.
    if claim.digest not in (zeroed, digest):
        raise StoreError(
            f"ca hash mismatch importing path '{info.path}';\n"
            f"  specified: {format_hash(claim.digest, claim.algorithm)}\n"
            f"  got:       {format_hash(digest, claim.algorithm)}"
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
