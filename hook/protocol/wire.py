"""The primitives every Nix protocol is made of: u64, padded strings, and lists of them.

`Reader` pulls exact byte counts from a `Source` and `Writer` collects bytes; neither knows where they come from or
go to.  Each length that a peer sends is checked against a limit before anything is read or allocated for it.

Source: docs/protocols/worker-protocol.md, "Primitives".  Tested in test_wire.py, for every split of the input.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from hook.errors import ProtocolError

MAX_STRING_BYTES = 64 << 20
"""Longest string accepted where the protocol sets no tighter limit: a log line or an error message."""

MAX_SHOWN_BYTES = 8 << 20
"""What is kept of one that is only shown: as JSON it may take six times as much, several times over."""

MAX_LIST_BYTES = 64 << 20
"""Longest list accepted, all its strings together: a closure of half a million paths.  Machines send none so long."""

MAX_PATH_BYTES = 4096
MAX_COUNT = 1 << 20
"""Most elements accepted in one list."""

MAX_REFERENCES = 1 << 17
MAX_REFERENCES_BYTES = 16 << 20
"""What one store path can refer to; the closure of a system has a few thousand paths."""

MAX_WORDS = 1 << 10
MAX_WORDS_BYTES = 1 << 20

LONG_LIST = 64
"""A list of so many strings is read by the C module, which does not pay for fewer."""

_U64_MAX = (1 << 64) - 1


class Source(Protocol):
    """Where a Reader gets its bytes."""

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes; raises when the stream ends before."""
        ...

    def peek(self) -> bytes | memoryview:
        """What has arrived and was not read yet, without waiting; valid until the next call."""
        ...

    def consume(self, size: int) -> None:
        """Drop `size` bytes of what `peek` returned."""
        ...


class Reader:
    """Typed reads from a byte stream; raises ProtocolError on anything the encoding forbids."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def u64(self) -> int:
        """An unsigned 64-bit little-endian integer."""
        return int.from_bytes(self._source.read(8), "little")

    def flag(self) -> bool:
        """A boolean: any integer other than 0 is true, as in Nix."""
        return self.u64() != 0

    def string(self, limit: int = MAX_STRING_BYTES) -> bytes:
        """Length, bytes, zero padding to a multiple of eight."""
        length = self._length(limit)
        padded = self._source.read((length + 7) & ~7)
        if any(padded[length:]):
            raise ProtocolError("non-zero padding")
        return padded[:length]

    def shown(self, limit: int = MAX_SHOWN_BYTES) -> bytes:
        """A string that people see and nothing depends on: what is beyond `limit` is dropped, with a remark."""
        length = self._length(MAX_STRING_BYTES)
        kept = self._source.read(min(length, limit))
        left = (length + 7 & ~7) - len(kept)
        while left:
            left -= len(self._source.read(min(left, MAX_SHOWN_BYTES)))
        return kept if length <= limit else kept + b"[%d bytes left out]" % (length - limit)

    def _length(self, limit: int) -> int:
        length = self.u64()
        if length > limit:
            raise ProtocolError(f"string of {length} bytes where at most {limit} are allowed")
        return length

    def text(self, limit: int = MAX_PATH_BYTES) -> str:
        """A string that must be UTF-8: paths, names, hashes."""
        data = self.string(limit)
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise ProtocolError(f"expected text, got {data[:64]!r}") from None

    def message(self) -> str:
        """A string meant for people; invalid UTF-8 becomes U+FFFD, as in Nix's own JSON logs."""
        return self.shown().decode(errors="replace")

    def count(self, limit: int = MAX_COUNT) -> int:
        """The number of elements that follow."""
        count = self.u64()
        if count > limit:
            raise ProtocolError(f"list of {count} elements where at most {limit} are allowed")
        return count

    def texts(
        self, limit: int = MAX_PATH_BYTES, *, most: int = MAX_COUNT, most_bytes: int = MAX_LIST_BYTES
    ) -> list[str]:
        """A list or set of texts, in the order sent: at most so many, and with so many bytes altogether."""
        count = self.count(most)
        if count < LONG_LIST:
            return [self.text(limit) for _ in range(count)]
        from hook.protocol.lists import decode_texts

        texts: list[str] = []
        total = 0
        while len(texts) < count:
            whole, size = decode_texts(self._source.peek(), limit, count - len(texts))
            if whole:
                self._source.consume(size)
                texts += whole
            else:  # the next one is cut by the end of what has arrived
                texts.append(self.text(limit))
            total += size or len(texts[-1])
            if total > most_bytes:
                raise ProtocolError(f"list of more than {most_bytes} bytes")
        return texts

    def references(self) -> tuple[str, ...]:
        """What a store path refers to, sorted."""
        return tuple(sorted(self.texts(most=MAX_REFERENCES, most_bytes=MAX_REFERENCES_BYTES)))

    def some_of(self, asked: Sequence[str]) -> set[str]:
        """A set of texts that were asked about; a larger one cannot be meant."""
        # Each with its length and its padding.
        most_bytes = sum(map(len, asked)) + 16 * len(asked)
        return set(self.texts(most=len(asked), most_bytes=most_bytes))

    def words(self) -> list[str]:
        """A list of texts of which there are only a few: signatures, features."""
        return self.texts(most=MAX_WORDS, most_bytes=MAX_WORDS_BYTES)


class Writer:
    """Collects one request; `take` and `hand_over` start anew."""

    def __init__(self) -> None:
        self._data = bytearray()

    def u64(self, value: int) -> None:
        """An unsigned 64-bit little-endian integer."""
        if not 0 <= value <= _U64_MAX:
            raise ValueError(f"{value} does not fit into 64 bits")
        self._data += value.to_bytes(8, "little")

    def flag(self, value: bool) -> None:
        """A boolean as 0 or 1."""
        self.u64(1 if value else 0)

    def string(self, value: bytes | str) -> None:
        """Length, bytes, zero padding to a multiple of eight."""
        data = value.encode(errors="surrogateescape") if isinstance(value, str) else value
        self.u64(len(data))
        self._data += data
        self._data += bytes(-len(data) % 8)

    def strings(self, values: Sequence[str] | Sequence[bytes]) -> None:
        """A list; sets are sent sorted, so sort before."""
        # Loaded on first use: choosing a machine needs no C.
        from hook.protocol.lists import append_strings

        append_strings(self._data, values)

    def raw(self, data: bytes) -> None:
        """Bytes that are encoded already."""
        self._data += data

    def hand_over(self, write: Callable[[bytearray], object]) -> None:
        """Have what was written since the last call written, without another copy of it."""
        data, self._data = self._data, bytearray()
        write(data)

    def take(self) -> bytes:
        """What was written since the last call."""
        data = bytes(self._data)
        self._data.clear()
        return data
