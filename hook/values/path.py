"""Store paths: their text, and how the paths of content-addressed store objects follow from a hash.

Pure: nothing here looks at a disk.  A store path is always the full logical text, `/nix/store/<hash>-<name>`, also in
a chroot store.  values/test_path.py checks the rules against paths made by Nix.
"""

from collections.abc import Iterable

from hook.errors import StoreError

BASE32 = "0123456789abcdfghijklmnpqrsvwxyz"
"""Nix's digits: no e, o, u, t."""

HASH_BYTES = 20
HASH_CHARS = 32
MAX_NAME = 211
NAME_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-._?=")
_HASH_DIGITS = frozenset(BASE32)


def encode_base32(data: bytes) -> str:
    """Nix's base 32: the bytes as one little-endian number, most significant digit first."""
    number = int.from_bytes(data, "little")
    digits = (len(data) * 8 + 4) // 5
    return "".join([BASE32[number >> 5 * i & 31] for i in reversed(range(digits))])


def decode_base32(text: str) -> bytes:
    """The inverse of `encode_base32`; StoreError for a wrong digit, or bits that no whole number of bytes has."""
    size = len(text) * 5 // 8
    if not _HASH_DIGITS.issuperset(text) or (size * 8 + 4) // 5 != len(text):
        raise StoreError(f"'{text}' is not a base-32 hash")
    number = 0
    for digit in text:
        number = number << 5 | BASE32.index(digit)
    try:
        return number.to_bytes(size, "little")
    except OverflowError:
        raise StoreError(f"'{text}' is not a base-32 hash") from None


def check_store_path(text: str, store_dir: str) -> str:
    """Return `text` if it is a store path below `store_dir`, and nothing longer; StoreError otherwise."""
    prefix = store_dir + "/"
    if not text.startswith(prefix):
        raise StoreError(f"path '{text}' is not in the Nix store")
    start = len(prefix)
    split = start + HASH_CHARS
    if not _HASH_DIGITS.issuperset(text[start:split]) or text[split : split + 1] != "-":
        raise StoreError(f"path '{text}' is not a store path: it lacks {HASH_CHARS} base-32 digits and a dash")
    name = text[split + 1 :]
    if not is_valid_name(name):
        raise StoreError(f"path '{text}' is not a store path: its name is not valid")
    return text


def is_valid_name(name: str) -> bool:
    """Whether `name` may follow the hash in a store path."""
    if not 0 < len(name) <= MAX_NAME or not NAME_CHARS.issuperset(name):
        return False
    # Such names would turn up as `.`, `..` or their options-like cousins wherever the hash is cut off.
    return name not in (".", "..") and not name.startswith((".-", "..-"))


def base_name(path: str) -> str:
    """`<hash>-<name>` of a store path."""
    return path[path.rindex("/") + 1 :]


def hash_part(path: str) -> str:
    """The 32 digits of a store path."""
    return base_name(path)[:HASH_CHARS]


def name_of(path: str) -> str:
    """What follows the hash and its dash in a store path."""
    return base_name(path)[HASH_CHARS + 1 :]


def store_path(kind: str, inner: bytes, name: str, store_dir: str) -> str:
    """The path of something of `kind` whose SHA-256 is `inner`."""
    # Loaded on first use: it brings in libcrypto, which most decisions do without.
    from hashlib import sha256

    digest = sha256(f"{kind}:sha256:{inner.hex()}:{store_dir}:{name}".encode()).digest()
    folded = bytearray(HASH_BYTES)
    for i, byte in enumerate(digest):
        folded[i % HASH_BYTES] ^= byte
    return f"{store_dir}/{encode_base32(bytes(folded))}-{name}"


def text_path(content: bytes, references: Iterable[str], name: str, store_dir: str) -> str:
    """The path of a text file with this SHA-256, such as a derivation."""
    return store_path(":".join(["text", *sorted(references)]), content, name, store_dir)


def source_path(nar_hash: bytes, references: Iterable[str], refers_to_itself: bool, name: str, store_dir: str) -> str:
    """The path of a store object addressed by the SHA-256 of its NAR; `references` is without the path itself."""
    kind = ["source", *sorted(references)]
    if refers_to_itself:
        kind.append("self")
    return store_path(":".join(kind), nar_hash, name, store_dir)


def fixed_path(method: str, algorithm: str, content: bytes, name: str, store_dir: str) -> str:
    """The path of a store object that refers to nothing and is addressed in any other way than by `source_path`.

    `method` is `` for the bytes of one file, `r:` for a NAR and `git:` for a git tree.
    """
    from hashlib import sha256

    inner = sha256(f"fixed:out:{method}{algorithm}:{content.hex()}:".encode()).digest()
    return store_path("output:out", inner, name, store_dir)
