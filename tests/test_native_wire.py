import itertools
import os
import select
import signal
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.errors import ProtocolError
from hook.protocol.frames import FrameReader
from hook.protocol.lists import decode_strings, decode_texts, encode_strings
from tests.oracles import Input, Invalid, frames, strings

MANY = 1 << 20
items = st.lists(st.binary(max_size=100))
listable = st.lists(st.binary(max_size=100).map(lambda item: item.replace(b"\0", b"-")))
texts = st.lists(st.text(st.characters(exclude_categories=["Cs"])))


# Lists


@given(items)
def test_a_list_is_encoded_as_by_the_reference(case):
    assert encode_strings(case) == strings(case)


@given(texts)
def test_text_is_encoded_as_utf_8(case):
    assert encode_strings(case) == strings(text.encode() for text in case)


def test_what_came_as_bytes_goes_out_as_the_same_bytes():
    """File names reach Python with surrogate escapes."""
    assert encode_strings([os.fsdecode(b"\xff")]) == strings([b"\xff"])


@given(listable, st.binary(max_size=20))
def test_a_decoded_list_is_what_was_encoded(case, rest):
    encoded = strings(case)
    assert decode_strings(encoded + rest, 100, len(case)) == (case, len(encoded))
    assert decode_strings(memoryview(bytearray(encoded + rest)), 100, len(case)) == (case, len(encoded))


@given(texts)
def test_decoded_texts_are_what_was_encoded(case):
    case = [text.replace("\0", "-") for text in case]
    encoded = encode_strings(case)
    assert decode_texts(encoded, 10_000, MANY) == (case, len(encoded))


@given(listable)
def test_no_part_of_a_list_is_a_list(case):
    """The caller comes back with more; what it has is neither wrong nor complete."""
    encoded = strings(case)
    assert all(decode_strings(encoded[:cut], 100, MANY) is None for cut in range(len(encoded)))


@given(items, st.data())
def test_changed_bytes_are_judged_as_by_the_reference(case, data):
    damaged = bytearray(strings(case))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    source = Input(bytes(damaged))
    try:
        expected = source.strings(100, 30), source.at
    except EOFError:
        expected = None
    except Invalid:
        with pytest.raises(ProtocolError):
            decode_strings(damaged, 100, 30)
        return
    assert decode_strings(damaged, 100, 30) == expected


def test_limits_are_those_of_the_caller():
    encoded = strings([b"123", b"1234"])
    assert decode_strings(encoded, 4, 2) == ([b"123", b"1234"], len(encoded))
    with pytest.raises(ProtocolError, match="list with a string of more than 3 bytes"):
        decode_strings(encoded, 3, 2)
    with pytest.raises(ProtocolError, match="list of more than 1 elements"):
        decode_strings(encoded, 4, 1)


def test_a_count_that_nobody_can_mean_allocates_nothing():
    """A peer's count is believed only as far as its bytes go."""
    assert decode_strings(struct.pack("<Q", MANY), 100, MANY) is None
    with pytest.raises(ProtocolError, match="list of more than"):
        decode_strings(b"\xff" * 16, 100, MANY)


def test_texts_that_are_no_text_are_refused():
    with pytest.raises(ProtocolError, match="not UTF-8"):
        decode_texts(strings([b"\xff"]), 100, MANY)


# Frames


@given(st.lists(st.binary(min_size=1, max_size=50)), st.binary(max_size=9), st.lists(st.integers(0, 500)))
def test_framed_bytes_survive_any_split(pieces, rest, cuts):
    stream = frames(pieces) + rest
    reader = FrameReader()
    payload, consumed = b"", 0
    for start, end in itertools.pairwise([0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]):
        parts, size = reader.feed(stream[start:end])
        payload += b"".join(parts)
        consumed += size
    assert (payload, consumed) == (b"".join(pieces), len(stream) - len(rest))
    assert reader.done


def test_an_unfinished_stream_is_not_done():
    reader = FrameReader()
    stream = frames([b"abc"])
    assert reader.feed(stream[:-1]) == ([b"abc"], len(stream) - 1)
    assert not reader.done
    assert reader.feed(stream[-1:]) == ([], 1)
    assert reader.done
    assert reader.feed(b"next") == ([], 0)


# Processes


def test_a_child_that_asked_for_it_dies_with_its_parent():
    """A killed hook must not leave ssh behind."""
    grandchild = "from hook._native import lib; lib.set_pdeathsig(15); print(flush=True); import time; time.sleep(600)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    with subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        process.send_signal(signal.SIGKILL)
        # The grandchild holds the other end of the pipe until it dies.
        assert select.select([process.stdout], [], [], 30)[0]
        assert process.stdout.read() == b""
