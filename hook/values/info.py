"""What the database knows about a valid path, hashes as text, and content addresses.

Pure: values, parsing and printing.  Whether a store object has the content its address claims is checked in content.py;
here only whether its path follows from the claim.  Tested in values/test_info.py.
"""

from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from hook.errors import StoreError
from hook.values.path import (
    check_store_path,
    decode_base32,
    encode_base32,
    fixed_path,
    name_of,
    source_path,
    text_path,
)

MAX_INTEGER = (1 << 63) - 1
"""The largest number that the database, and Nix, can hold."""

_BASE64_DIGITS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")

HASH_SIZES = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64}
"""Bytes of each digest that Nix's stable features know."""


@dataclass(frozen=True, slots=True)
class PathInfo:
    """A valid path: `references` and `signatures` are sorted, times are Unix seconds, `ca` is '' if there is none."""

    path: str
    deriver: str | None
    nar_hash: bytes
    nar_size: int
    references: tuple[str, ...]
    registration_time: int = 0
    ultimate: bool = False
    signatures: tuple[str, ...] = ()
    ca: str = ""


class ContentAddress(NamedTuple):
    """A parsed `ca` field; `method` is `text:`, or `` (flat), `r:` or `git:` for `fixed:…`."""

    method: str
    algorithm: str
    digest: bytes


def parse_hash(text: str, algorithm: str) -> bytes:
    """A hash in hex, base 32 or SRI, with or without its algorithm in front; StoreError for anything else."""
    size = HASH_SIZES[algorithm]
    digits = text
    for separator in (":", "-"):
        prefix, found, rest = text.partition(separator)
        if found:
            if prefix != algorithm:
                raise StoreError(f"hash '{text}' is not of type '{algorithm}'")
            digits = rest
            break
    try:
        if len(digits) == size * 2:
            return bytes.fromhex(digits)
        if len(digits) == (size * 8 + 4) // 5:
            return decode_base32(digits)
        if len(digits) == (size + 2) // 3 * 4:
            digest = a2b_base64(digits.encode("ascii"), strict_mode=True)
            if len(digest) == size:
                return digest
    except (ValueError, Base64Error, StoreError):
        pass
    raise StoreError(f"'{text}' is not a {algorithm} hash")


def format_hash_hex(digest: bytes) -> str:
    """Lower-case hexadecimal digits without the algorithm."""
    return digest.hex()


def format_hash(digest: bytes, algorithm: str = "sha256") -> str:
    """`<algorithm>:<base 32>`, the form of messages, content addresses and fingerprints."""
    return f"{algorithm}:{encode_base32(digest)}"


def check_path_info(info: PathInfo, store_dir: str) -> None:
    """StoreError if a field of `info` is nothing that could be registered, whoever reported it."""
    for path in (info.path, *info.references):
        check_store_path(path, store_dir)
    if info.deriver is not None:
        check_store_path(info.deriver, store_dir)
    if not 0 <= info.registration_time <= MAX_INTEGER or not 0 < info.nar_size <= MAX_INTEGER:
        raise StoreError(f"'{info.path}' has registration time {info.registration_time} and NAR size {info.nar_size}")
    check_signatures(info.path, info.signatures)


def check_signatures(path: str, signatures: Iterable[str]) -> None:
    """StoreError if one of the signatures of `path` is malformed."""
    for signature in signatures:
        name, _, digits = signature.partition(":")
        # They are kept as words of one line.
        if name.split() != [name] or not digits or not _BASE64_DIGITS.issuperset(digits):
            raise StoreError(f"'{path}' has the malformed signature {signature!r}")


def fingerprint(info: PathInfo) -> str:
    """The text that a signature of a path signs."""
    return f"1;{info.path};{format_hash(info.nar_hash)};{info.nar_size};{','.join(info.references)}"


def parse_content_address(text: str) -> ContentAddress:
    """Parse `text:sha256:…`, `fixed:sha256:…`, `fixed:r:sha256:…` or `fixed:git:…`; StoreError for anything else."""
    kind, _, rest = text.partition(":")
    method = ""
    if kind == "text":
        method = "text:"
    elif kind == "fixed":
        for prefix in ("r:", "git:"):
            if rest.startswith(prefix):
                method = prefix
    else:
        raise StoreError(f"'{text}' is not a content address")
    hash_text = rest if method == "text:" else rest[len(method) :]
    algorithm, separator, _ = hash_text.partition(":")
    if not separator or algorithm not in HASH_SIZES or (method == "text:" and algorithm != "sha256"):
        raise StoreError(f"'{text}' is not a content address")
    return ContentAddress(method, algorithm, parse_hash(hash_text, algorithm))


def check_content_address(info: PathInfo, store_dir: str) -> ContentAddress | None:
    """The content address of `info`, None if it claims none; StoreError if its path does not follow from the claim."""
    if not info.ca:
        return None
    claim = parse_content_address(info.ca)
    if content_addressed_path(claim, info, store_dir) != info.path:
        raise StoreError(
            f"cannot add path '{info.path}' to the Nix store because it claims to be content-addressed but isn't"
        )
    return claim


def content_addressed_path(claim: ContentAddress, info: PathInfo, store_dir: str) -> str | None:
    """The path that follows from `claim`, None if such an object cannot have the references of `info`."""
    name = name_of(info.path)
    others = [reference for reference in info.references if reference != info.path]
    refers_to_itself = len(others) < len(info.references)
    if claim.method == "text:":
        return None if refers_to_itself else text_path(claim.digest, others, name, store_dir)
    if claim.method == "r:" and claim.algorithm == "sha256":
        return source_path(claim.digest, others, refers_to_itself, name, store_dir)
    if info.references:
        return None
    return fixed_path(claim.method, claim.algorithm, claim.digest, name, store_dir)
