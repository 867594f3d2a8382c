"""Lists of strings on the wire, as many at a time as there are.

A closure is thousands of store paths; read or written one by one they cost more than everything else the hook does
with them.  One C call turns a list into a single block that Python splits in one call, and back.  Pure: bytes in,
bytes out.  Tested in protocol/test_lists.py against a Python reference.
"""

from collections.abc import Iterable, Sequence
from typing import cast

from hook._native import ffi, lib
from hook.errors import ProtocolError

ENCODED_AT_ONCE = 512
"""The kernel hands out larger buffers anew, page by page, each time: that takes longer than the work."""

_new_uncleared = ffi.new_allocator(should_clear_after_alloc=False)

_INVALID = {
    lib.WIRE_TOO_LONG: "list with a string of more than {max_bytes_each} bytes",
    lib.WIRE_PADDING: "non-zero padding",
    lib.WIRE_NUL: "list with a NUL in a string",
}


def append_strings(out: bytearray, strings: Sequence[str] | Sequence[bytes]) -> None:
    """Append a list of strings to `out`: u64 count, then each padded; text becomes UTF-8."""
    out += len(strings).to_bytes(8, "little")
    for start in range(0, len(strings), ENCODED_AT_ONCE):
        out += _encode(strings[start : start + ENCODED_AT_ONCE])


def _encode(strings: Sequence[str] | Sequence[bytes]) -> bytes | memoryview:
    if isinstance(strings[0], str):
        joined = "\0".join(cast(Sequence[str], strings)).encode("utf-8", "surrogateescape")
    else:
        joined = b"\0".join(cast(Sequence[bytes], strings))
    out = _new_uncleared("uint8_t[]", len(joined) + 16 * (len(strings) + 1))
    size = lib.wire_put_joined(out, joined, len(joined), len(strings))
    return _encode_each(strings) if size < 0 else ffi.buffer(out, size)[8:]


def _encode_each(strings: Iterable[str] | Iterable[bytes]) -> bytes:
    """The slow way, for strings with a NUL: Nix has none, but the encoding does not forbid them."""
    out = bytearray()
    for string in strings:
        data = string.encode("utf-8", "surrogateescape") if isinstance(string, str) else string
        out += len(data).to_bytes(8, "little") + data + bytes(-len(data) % 8)
    return bytes(out)


def decode_texts(data: bytes | bytearray | memoryview, max_bytes_each: int, max_count: int) -> tuple[list[str], int]:
    """The whole strings that `data` starts with, at most `max_count`, and the bytes they took; both may be nothing.

    ProtocolError: a string too long, badly padded, not UTF-8, or with a NUL, which nothing that Nix lists contains.
    """
    count, length = ffi.new("size_t *"), ffi.new("size_t *")
    out = _new_uncleared("char[]", len(data) or 1)  # no more of it is touched than is written
    with ffi.from_buffer("uint8_t[]", data) as source:
        size = lib.wire_join_strings(source, len(source), max_bytes_each, max_count, out, count, length)
    if size < 0:
        raise ProtocolError(_INVALID[size].format(max_bytes_each=max_bytes_each))
    if not size:
        return [], 0
    try:
        return str(ffi.buffer(out, length[0]), "utf-8").split("\0"), size
    except UnicodeDecodeError:
        raise ProtocolError("list with a string that is not UTF-8") from None
