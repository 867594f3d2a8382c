"""The primitives of all protocols: what goes in comes out, and no length a peer sends is believed."""

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.errors import ConnectionLost, ProtocolError
from hook.protocol.wire import (
    LONG_LIST,
    MAX_COUNT,
    MAX_LIST_BYTES,
    MAX_PATH_BYTES,
    MAX_REFERENCES,
    MAX_REFERENCES_BYTES,
    MAX_SHOWN_BYTES,
    MAX_STRING_BYTES,
    MAX_WORDS,
    MAX_WORDS_BYTES,
    Reader,
    Writer,
)
from tests import REPOSITORY
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


def test_what_is_handed_over_is_gone() -> None:
    """The next request begins with nothing, and changes nothing of what was sent."""
    writer, written = Writer(), list[bytearray]()
    for number in (1, 2):
        writer.u64(number)
        writer.hand_over(written.append)
    assert written == [b"\1" + bytes(7), b"\2" + bytes(7)]
    assert writer.take() == b""


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


class Endless:
    """A peer that never ends, and how much was asked of it at once."""

    def __init__(self, *words: int, rest: bytes) -> None:
        self._words = [word.to_bytes(8, "little") for word in words]
        self._rest = rest
        self.most = 0

    def read(self, size: int) -> bytes:
        self.most = max(self.most, size)
        return self._words.pop(0) if self._words else (self._rest * (size // len(self._rest) + 1))[:size]

    def peek(self) -> bytes:
        return self._rest

    def consume(self, size: int) -> None:
        """There is as much left as before."""


def test_of_what_is_only_shown_the_rest_is_dropped_piece_by_piece() -> None:
    """A build that prints a line of 64 MiB is not to be held up, nor to make us hold as much several times over."""
    source = Endless(MAX_STRING_BYTES - 3, rest=b"x")
    text = Reader(source).shown(1000)
    assert text == b"x" * 1000 + b"[%d bytes left out]" % (MAX_STRING_BYTES - 1003)
    assert source.most <= MAX_SHOWN_BYTES
    with pytest.raises(ProtocolError, match="at most"):
        Reader(Endless(MAX_STRING_BYTES + 1, rest=b"x")).shown()


@given(st.lists(st.tuples(st.binary(max_size=30), st.integers(0, 30))))
def test_whatever_is_left_out_the_next_string_is_found(shown: list[tuple[bytes, int]]) -> None:
    w = Writer()
    for data, _ in shown:
        w.string(data)
    source = BytesSource(w.take())
    for data, limit in shown:
        read = Reader(source).shown(limit)
        assert read.startswith(data[:limit])
        assert (read == data) == (len(data) <= limit)
    assert source.left == b""


def test_a_list_is_limited_as_a_whole() -> None:
    """A million strings of the greatest length would be four gigabytes."""
    path = Writer()
    path.string(b"x" * MAX_PATH_BYTES)
    with pytest.raises(ProtocolError, match=f"more than {MAX_LIST_BYTES} bytes"):
        Reader(Endless(MAX_COUNT, rest=path.take())).texts()


class Piecemeal(BytesSource):
    """Shows only so many bytes of what is to come."""

    def __init__(self, data: bytes, shown: int) -> None:
        super().__init__(data)
        self._shown = shown

    def peek(self) -> bytes:
        return bytes(self.left[: self._shown])


@pytest.mark.parametrize("shown", [0, 100, 1200, 1 << 20], ids=["nothing", "less than one", "two", "all"])
def test_every_string_of_a_list_counts(shown: int) -> None:
    """However many of them have arrived when we look."""
    w = Writer()
    w.strings([b"x" * 504] * 200)
    encoded = w.take()
    assert len(Reader(Piecemeal(encoded, shown)).texts(most_bytes=110_000)) == 200
    with pytest.raises(ProtocolError, match="more than 90000 bytes"):
        Reader(Piecemeal(encoded, shown)).texts(most_bytes=90_000)


@pytest.mark.parametrize("read", ["references", "words"])
def test_a_list_of_a_machine_has_a_bound_of_its_own(read: str) -> None:
    """By what it is for: several machines may send one at once."""
    long = Writer()
    long.string(b"x" * MAX_PATH_BYTES)
    most_bytes = {"references": MAX_REFERENCES_BYTES, "words": MAX_WORDS_BYTES}[read]
    most = {"references": MAX_REFERENCES, "words": MAX_WORDS}[read]
    with pytest.raises(ProtocolError, match=f"more than {most_bytes} bytes"):
        getattr(Reader(Endless(most, rest=long.take())), read)()
    with pytest.raises(ProtocolError, match=f"at most {most} are allowed"):
        getattr(Reader(Endless(most + 1, rest=b"x")), read)()


def test_an_answer_is_no_larger_than_the_question() -> None:
    """Which of these paths are valid?"""
    w = Writer()
    w.strings(PATHS)
    data = w.take()
    assert Reader(BytesSource(data)).some_of(PATHS) == set(PATHS)
    with pytest.raises(ProtocolError, match="at most"):
        Reader(BytesSource(data)).some_of(PATHS[1:])
    w.strings(["x" * MAX_PATH_BYTES] * len(PATHS))
    with pytest.raises(ProtocolError, match="list of more than"):
        Reader(BytesSource(w.take())).some_of(PATHS)


PATHS = [f"/nix/store/{number:032}-name" for number in range(100)]

SIX_LISTS = """
import resource, threading
from hook.errors import ProtocolError
from hook.protocol.wire import MAX_REFERENCES, Reader, Writer
from tests.protocol.test_wire import Endless

w = Writer()
w.string(b"/nix/store/" + b"x" * 32 + b"-name-and-version")
path = w.take()
start = threading.Barrier(6)
lists = []

def read():
    start.wait()
    lists.append(Reader(Endless(MAX_REFERENCES, rest=path * 4096)).references())

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
threads = [threading.Thread(target=read) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(lists) == 6
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_six_lists_at_once_take_bounded_memory() -> None:
    """Each from another machine, and each as long as it may be."""
    done = subprocess.run([sys.executable, "-c", SIX_LISTS], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert int(done.stdout) < 200 << 10


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
