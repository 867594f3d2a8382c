import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.errors import ProtocolError
from hook.protocol.lists import ENCODED_AT_ONCE, append_strings, decode_texts
from tests.oracles import Input, Invalid, strings

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
