"""The primitives of all protocols: what goes in comes out, and no length a peer sends is believed."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.errors import ConnectionLost, ProtocolError
from hook.protocol.wire import LONG_LIST, Reader, Writer
from tests.fakes.source import BytesSource

VALUES = st.one_of(
    st.tuples(st.just("u64"), st.integers(0, 2**64 - 1)),
    st.tuples(st.just("flag"), st.booleans()),
    st.tuples(st.just("string"), st.binary(max_size=40)),
    st.tuples(st.just("strings"), st.lists(st.text(max_size=20).map(str.encode), max_size=10)),
)


def read_back(reader: Reader, kind: str) -> Any:
    if kind == "strings":
        return [text.encode() for text in reader.texts()]
    return getattr(reader, kind)()


@given(st.lists(VALUES, max_size=20))
def test_every_value_comes_back(values: list[tuple[str, Any]]) -> None:
    """A reader that gets one primitive wrong misreads everything after it."""
    writer = Writer()
    for kind, value in values:
        getattr(writer, kind)(value)
    source = BytesSource(writer.take())
    reader = Reader(source)
    assert [(kind, read_back(reader, kind)) for kind, _ in values] == values
    assert source.left == b""


@given(st.integers(LONG_LIST - 1, 200), st.lists(st.integers(0, 9000), max_size=9).map(sorted))
def test_a_long_list_survives_any_split(count: int, cuts: list[int]) -> None:
    """Long lists are taken as far as they have arrived; what follows them is not theirs."""
    paths = [f"/nix/store/{number:032}-{'x' * (number % 11)}" for number in range(count)]
    writer = Writer()
    writer.strings(paths)
    writer.u64(7)
    source = Arriving(writer.take(), cuts)
    reader = Reader(source)
    assert (reader.texts(), reader.u64(), source.left) == (paths, 7, b"")


class Arriving(BytesSource):
    """Shows what lies before the next of the `cuts`, as if no more had arrived."""

    def __init__(self, data: bytes, cuts: list[int]) -> None:
        super().__init__(data)
        self._all = len(data)
        self._cuts = cuts

    def peek(self) -> bytes:
        at = self._all - len(self.left)
        return self.left[: next((cut for cut in self._cuts if cut >= at), self._all) - at]


def test_a_string_is_padded_with_zeros_to_eight_bytes() -> None:
    """The layout itself, independent of our own reader."""
    writer = Writer()
    writer.string(b"try")
    assert writer.take() == b"\x03\0\0\0\0\0\0\0try\0\0\0\0\0"


def test_padding_that_is_not_zero_is_refused() -> None:
    """Nix refuses it, and it is the first sign of a stream read out of step."""
    with pytest.raises(ProtocolError, match="padding"):
        Reader(BytesSource(b"\x03\0\0\0\0\0\0\0try\0\0x\0\0")).string()


@pytest.mark.parametrize("read", ["string", "text", "texts", "count", "message"])
def test_a_length_beyond_the_limit_is_refused_before_reading(read: str) -> None:
    """A peer that announces 2^64-1 bytes must not make us wait for them, or allocate them."""
    source = BytesSource(b"\xff" * 8)
    with pytest.raises(ProtocolError, match="at most"):
        getattr(Reader(source), read)()


def test_text_must_be_utf8() -> None:
    """A store path or a name with other bytes is an error here and not three modules later."""
    writer = Writer()
    writer.string(b"\xff\xfe")
    with pytest.raises(ProtocolError, match="expected text"):
        Reader(BytesSource(writer.take())).text()


def test_a_message_for_people_may_hold_any_bytes() -> None:
    """Compilers print what they like; it must reach the user with the bad bytes replaced."""
    writer = Writer()
    writer.string(b"caf\xe9")
    assert Reader(BytesSource(writer.take())).message() == "caf\ufffd"


@given(st.binary(max_size=30), st.integers(0, 40))
def test_truncation_is_noticed_at_every_byte(data: bytes, cut: int) -> None:
    """However little is missing, a short string never passes for a whole one."""
    writer = Writer()
    writer.string(data)
    encoded = writer.take()
    if cut < len(encoded):
        with pytest.raises(ConnectionLost):
            Reader(BytesSource(encoded[:cut])).string()


def test_a_number_that_does_not_fit_is_our_own_mistake() -> None:
    """Negative or oversized numbers must never reach the wire in a shorter form."""
    for value in (-1, 2**64):
        with pytest.raises(ValueError, match="64 bits"):
            Writer().u64(value)
