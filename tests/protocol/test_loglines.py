"""Lines of a build log in bulk: the C module does for each what the client and the JSON log do, or leaves it alone."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.protocol.loglines import LogLines
from tests.oracles import log_line, log_lines

BEFORE, AFTER = b'{"text":"', b'"}\n'

texts = st.text(st.characters(exclude_categories=["Cs"])).map(str.encode)
awkward = st.sampled_from(
    [b'"', b"\\", b"\x00\x1f\x7f", "é€😀".encode(), b"\xed\xa0\x80", b"\xc3", b"\xf5", b"\xe0\x80\x80"]
)
lines = st.lists(st.one_of(texts, awkward, st.binary(max_size=20)), max_size=8)


def take(data: bytes, activity: int = 7, room: int = 1 << 10) -> tuple[bytes, int]:
    out, size, text_bytes = LogLines(room).take(data, activity, BEFORE, AFTER)
    assert text_bytes == sum(len(text.encode()) + 1 for text in shown(bytes(out)))
    return bytes(out), size


def shown(out: bytes) -> list[str]:
    return [json.loads(line)["text"] for line in out.split(b"\n")[:-1]]


@given(lines, st.binary(max_size=60), st.integers(0, 600))
def test_lines_are_taken_as_by_the_reference(case: list[bytes], rest: bytes, room: int) -> None:
    """As many as are valid and fit, each to its last character; whatever follows stays."""
    data = b"".join(log_line(7, text) for text in case) + rest
    out, size = take(data, room=room)
    assert len(out) <= room
    expected, sizes = log_lines(data, 7)
    assert shown(out) == expected[: len(shown(out))]
    assert size == sum(sizes[: len(shown(out))])
    if len(shown(out)) < len(expected):
        assert len(out) + len(BEFORE + AFTER) + 6 * len(expected[len(shown(out))].encode()) > room


@given(st.lists(texts, min_size=1, max_size=4), st.data())
def test_a_line_is_taken_only_when_it_is_all_there(case: list[bytes], data: st.DataObject) -> None:
    """Its end may be held up; the lines before it are shown without waiting for that."""
    whole = b"".join(log_line(7, text) for text in case)
    cut = data.draw(st.integers(0, len(whole) - 1))
    out, size = take(whole[:cut], room=1 << 16)
    assert size <= cut < size + len(log_line(7, case[len(shown(out))]))


@pytest.mark.parametrize("word", range(5))
def test_any_other_message_is_left_alone(word: int) -> None:
    """Another message, activity, kind of news, number of fields, or kind of field."""
    other = bytearray(log_line(7, b"a line"))
    other[8 * word] ^= 2
    assert take(log_line(7, b"first") + other) == (b'{"text":"first"}\n', len(log_line(7, b"first")))


def test_bad_padding_is_left_to_the_client() -> None:
    """It knows what to say about it."""
    broken = bytearray(log_line(7, b"a line"))
    broken[-1] = 1
    assert take(broken) == (b"", 0)
