import itertools
import os
import select
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.errors import ProtocolError
from hook.protocol.frames import FrameReader
from hook.protocol.lists import ENCODED_AT_ONCE, append_strings, decode_texts
from tests.oracles import Input, Invalid, frames, strings

MANY = 1 << 20
items = st.lists(st.binary(max_size=100))
texts = st.lists(st.text(st.characters(exclude_categories=["Cs"])))


# Lists


def encode_strings(case):
    append_strings(out := bytearray(b"before"), case)
    assert out.startswith(b"before")
    return bytes(out[6:])


@given(items)
def test_a_list_is_encoded_as_by_the_reference(case):
    assert encode_strings(case) == strings(case)


@pytest.mark.parametrize("odd", [b"", b"\0"])
@pytest.mark.parametrize("count", [ENCODED_AT_ONCE - 1, ENCODED_AT_ONCE, ENCODED_AT_ONCE + 1, 3 * ENCODED_AT_ONCE])
def test_a_list_of_any_length_is_encoded_as_by_the_reference(count, odd):
    """It is done in parts, each of which may have to take the slow way."""
    case = [b"%d" % number for number in range(count - 1)] + [odd]
    assert encode_strings(case) == strings(case)


@given(texts)
def test_text_is_encoded_as_utf_8(case):
    assert encode_strings(case) == strings(text.encode() for text in case)


def test_what_came_as_bytes_goes_out_as_the_same_bytes():
    """File names reach Python with surrogate escapes."""
    assert encode_strings([os.fsdecode(b"\xff")]) == strings([b"\xff"])


@given(texts, st.binary(max_size=20))
def test_decoded_texts_are_what_was_encoded(case, rest):
    case = [text.replace("\0", "-") for text in case]
    encoded = encode_strings(case)[8:]
    assert decode_texts(encoded + rest, 10_000, len(case)) == (case, len(encoded))
    assert decode_texts(memoryview(bytearray(encoded + rest)), 10_000, len(case)) == (case, len(encoded))


@given(texts)
def test_of_what_is_cut_the_whole_strings_are_taken(case):
    """The caller comes back with more; no part of a string is a string."""
    case = [text.replace("\0", "-") for text in case]
    ends = list(itertools.accumulate((len(encode_strings([text])) - 8 for text in case), initial=0))
    encoded = encode_strings(case)[8:]
    for cut in range(len(encoded)):
        whole = sum(end <= cut for end in ends) - 1
        assert decode_texts(encoded[:cut], 10_000, MANY) == (case[:whole], ends[whole])


@given(st.lists(st.sampled_from(["", "a", "12345678", "é"]), min_size=1, max_size=9), st.data())
def test_changed_bytes_are_judged_as_by_the_reference(case, data):
    count = len(case)
    damaged = bytearray(strings(text.encode() for text in case))
    damaged[data.draw(st.integers(8, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    source = Input(bytes(damaged))
    try:
        expected = [text.decode() for text in source.strings(100, count)]
    except EOFError:
        assert len(decode_texts(damaged[8:], 100, count)[0]) < count
    except (Invalid, UnicodeDecodeError):
        with pytest.raises(ProtocolError):
            decode_texts(damaged[8:], 100, count)
    else:
        assert decode_texts(damaged[8:], 100, count) == (expected, source.at - 8)


def test_limits_are_those_of_the_caller():
    encoded = strings([b"123", b"1234"])[8:]
    assert decode_texts(encoded, 4, 2) == (["123", "1234"], len(encoded))
    assert decode_texts(encoded, 3, 1) == (["123"], 16)
    with pytest.raises(ProtocolError, match="list with a string of more than 3 bytes"):
        decode_texts(encoded, 3, 2)


def test_texts_that_are_no_text_are_refused():
    for bad in (b"\xff", b"a\0b"):
        with pytest.raises(ProtocolError, match="list with a"):
            decode_texts(strings([bad])[8:], 100, MANY)


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
