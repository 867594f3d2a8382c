"""Lists of strings on the wire, whole lists at a time.

A closure is thousands of store paths; read or written one by one they cost more than everything else the hook does
with them.  One C call turns a list into a single block that Python splits in one call, and back.  Pure: bytes in,
bytes out.  Tested in test_native_wire.py against a Python reference.
"""

from collections.abc import Sequence
from typing import cast

from hook._native import ffi, lib
from hook.errors import ProtocolError

_new_uncleared = ffi.new_allocator(should_clear_after_alloc=False)

_INVALID = {
    lib.WIRE_TOO_LONG: "list with a string of more than {max_bytes_each} bytes",
    lib.WIRE_PADDING: "non-zero padding",
    lib.WIRE_TOO_MANY: "list of more than {max_count} elements",
    lib.WIRE_NUL: "list with a NUL in a string",
}


def encode_strings(strings: Sequence[str] | Sequence[bytes]) -> bytearray:
    """A list of strings: u64 count, then each padded; text becomes UTF-8."""
    if not strings:
        return bytearray(8)
    if isinstance(strings[0], str):
        joined = "\0".join(cast(Sequence[str], strings)).encode("utf-8", "surrogateescape")
    else:
        joined = b"\0".join(cast(Sequence[bytes], strings))
    out = bytearray(len(joined) + 16 * (len(strings) + 1))
    with ffi.from_buffer("uint8_t[]", out) as target:
        size = lib.wire_put_joined(target, joined, len(joined), len(strings))
    if size < 0:
        return _encode_each(strings)
    del out[size:]
    return out


def _encode_each(strings: Sequence[str] | Sequence[bytes]) -> bytearray:
    """The slow way, for strings with a NUL: Nix has none, but the encoding does not forbid them."""
    out = bytearray(len(strings).to_bytes(8, "little"))
    for string in strings:
        data = string.encode("utf-8", "surrogateescape") if isinstance(string, str) else string
        out += len(data).to_bytes(8, "little") + data + bytes(-len(data) % 8)
    return out


def decode_strings(
    data: bytes | bytearray | memoryview, max_bytes_each: int, max_count: int
) -> tuple[list[bytes], int] | None:
    """Read the list that `data` starts with; its strings and the bytes it took.  None when `data` ends too early.

    ProtocolError: a limit exceeded, bad padding, or a NUL in a string, which nothing that Nix lists contains.
    """
    if (joined := _decode(data, max_bytes_each, max_count)) is None:
        return None
    strings, size = joined
    return ([] if strings is None else strings.split(b"\0")), size


def decode_texts(
    data: bytes | bytearray | memoryview, max_bytes_each: int, max_count: int
) -> tuple[list[str], int] | None:
    """The same for strings that must be UTF-8."""
    if (joined := _decode(data, max_bytes_each, max_count)) is None:
        return None
    strings, size = joined
    try:
        return ([] if strings is None else strings.decode().split("\0")), size
    except UnicodeDecodeError:
        raise ProtocolError("list with a string that is not UTF-8") from None


def _decode(
    data: bytes | bytearray | memoryview, max_bytes_each: int, max_count: int
) -> tuple[bytes | None, int] | None:
    """The strings with a NUL between two, None for an empty list."""
    count, length = ffi.new("size_t *"), ffi.new("size_t *")
    with ffi.from_buffer("uint8_t[]", data) as source:
        size = lib.wire_scan_strings(source, len(source), max_bytes_each, max_count, count, length)
        if size >= 0:
            out = _new_uncleared("char[]", length[0])
            lib.wire_join_strings(source, out)
    if size == lib.WIRE_PARTIAL:
        return None
    if size < 0:
        raise ProtocolError(_INVALID[size].format(max_bytes_each=max_bytes_each, max_count=max_count))
    return (ffi.unpack(out, length[0]) if count[0] else None), size
