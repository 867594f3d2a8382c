"""Lines that Nix parses as JSON; one it cannot take aborts the user's command."""

import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.front import log
from hook.front.log import Activity, Log
from hook.protocol.activity import ActivityResult, ActivityType, LogMessage, StartActivity, StopActivity, Verbosity
from hook.protocol.wire import Reader
from tests.fakes.source import BytesSource
from tests.oracles import log_line


class Lines:
    """A log and what came out of it."""

    def __init__(self, verbosity: int = 3) -> None:
        self._read, self._write = os.pipe()
        self.log = Log(self._write, verbosity)

    def taken(self) -> list[dict[str, Any]]:
        os.close(self._write)
        with os.fdopen(self._read, "rb") as file:
            lines = file.read().splitlines(keepends=True)
        assert all(line.startswith(b"@nix {") and line.endswith(b"}\n") for line in lines)
        return [json.loads(line[5:]) for line in lines]


def test_messages_above_the_users_verbosity_are_not_sent() -> None:
    """`-v` decides, and Nix passes it to its hook."""
    lines = Lines(verbosity=3)
    lines.log.message(Verbosity.INFO, "shown")
    lines.log.message(Verbosity.TALKATIVE, "hidden")
    assert [line["msg"] for line in lines.taken()] == ["shown"]


def test_an_error_looks_like_one_of_nix() -> None:
    """Red word, further lines below the text; the layout users know."""
    lines = Lines()
    lines.log.error("first\n\nsecond")
    (message,) = lines.taken()
    assert message == {"action": "msg", "level": 0, "msg": "\x1b[31;1merror:\x1b[0m first\n\n       second"}


def test_a_warning_looks_like_one_of_nix() -> None:
    """Magenta word, and a level that `--quiet` leaves out."""
    lines = Lines()
    lines.log.warning("a line\nand another")
    lines.log.verbosity = Verbosity.ERROR
    lines.log.warning("too much")
    (message,) = lines.taken()
    assert message == {"action": "msg", "level": 1, "msg": "\x1b[35;1mwarning:\x1b[0m a line\nand another"}


def test_an_activity_ends_with_its_block_even_on_errors() -> None:
    """An activity left open stays in the user's progress display."""
    lines = Lines()
    with pytest.raises(ZeroDivisionError), Activity(lines.log, 4, ActivityType.UNKNOWN, "connecting"):
        raise ZeroDivisionError
    start, stop = lines.taken()
    assert (start["action"], start["text"], start["level"], start["type"]) == ("start", "connecting", 4, 0)
    assert stop == {"action": "stop", "id": start["id"]}


@pytest.mark.parametrize("text", ["/etc/\udcff", "\udcc3\udca9", "\ud83d", "\\ud83d", "😀"], ids=ascii)
def test_what_is_no_text_becomes_valid_json(text: str) -> None:
    """A path may have any bytes; half a surrogate pair is refused by Nix, which then aborts the command."""
    lines = Lines()
    lines.log.message(Verbosity.INFO, text)
    lines.log.start(Verbosity.INFO, 0, text, (text, 1))
    message, start = lines.taken()
    assert message["msg"] == start["text"] == start["fields"][0]
    assert message["msg"].encode().decode() == "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


FIELDS = st.lists(st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=20)), max_size=4).map(tuple)


@given(st.integers(0, 2**64 - 1), st.binary(max_size=30), FIELDS)
def test_whatever_a_daemon_says_becomes_valid_json(remote: int, text: bytes, fields: tuple[Any, ...]) -> None:
    """Every field is a string or a non-negative integer, every line valid UTF-8, every id one of ours."""
    lines = Lines()
    ids: dict[int, int] = {}
    lines.log.relay(ids, StartActivity(remote, 3, 105, text, fields, 0))
    lines.log.relay(ids, ActivityResult(remote, 101, fields))
    lines.log.relay(ids, StopActivity(remote))
    lines.log.relay(ids, LogMessage(text))
    start, result, stop, message = lines.taken()
    assert start["id"] == result["id"] == stop["id"]
    assert start["text"] == text.decode(errors="replace")
    assert result["fields"] == [f if isinstance(f, int) else f.decode(errors="replace") for f in fields]
    assert message["level"] == 0


def test_two_connections_may_use_the_same_ids() -> None:
    """Ids are unique per connection only; mixed up, one build's log would appear under another."""
    lines = Lines()
    first: dict[int, int] = {}
    second: dict[int, int] = {}
    lines.log.relay(first, StartActivity(1, 3, 105, b"a", (), 0))
    lines.log.relay(second, StartActivity(1, 3, 105, b"b", (), 0))
    a, b = lines.taken()
    assert a["id"] != b["id"]


def test_a_reused_id_ends_what_had_it() -> None:
    lines = Lines()
    ids: dict[int, int] = {}
    lines.log.relay(ids, StartActivity(1, 3, 105, b"a", (), 0))
    lines.log.relay(ids, StartActivity(1, 3, 105, b"b", (), 0))
    a, stop, b = lines.taken()
    assert (stop["action"], stop["id"]) == ("stop", a["id"])
    assert list(ids.values()) == [b["id"]]


def test_no_more_activities_are_remembered_than_anybody_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine could begin millions and end none; those that end make room."""
    monkeypatch.setattr(log, "MAX_ACTIVITIES", 3)
    lines = Lines()
    ids: dict[int, int] = {}
    for number in (1, 2, 3, 4):
        lines.log.relay(ids, StartActivity(number, 3, 105, b"a", (), 0))
    lines.log.relay(ids, StopActivity(1))
    lines.log.relay(ids, StartActivity(5, 3, 105, b"a", (), 0))
    assert ids.keys() == {2, 3, 5}
    assert [line["action"] for line in lines.taken()] == ["start", "start", "start", "stop", "start"]


def test_news_from_an_unknown_activity_is_dropped() -> None:
    """It cannot be shown anywhere, and Nix would ignore it."""
    lines = Lines()
    lines.log.relay({}, StopActivity(5))
    lines.log.relay({}, ActivityResult(5, 101, (b"x",)))
    assert lines.taken() == []


@given(st.lists(st.one_of(st.text(st.characters(exclude_categories=["Cs"])).map(str.encode), st.binary(max_size=9))))
def test_lines_in_bulk_are_the_same_as_one_by_one(texts: list[bytes]) -> None:
    """Whatever is left over for the slow way, what Nix reads does not depend on it."""
    received = memoryview(b"".join(log_line(1, text) for text in texts))
    bulk, single = Lines(), Lines()
    ids = {1: 5}
    for text in texts:
        single.log.relay(ids, ActivityResult(1, 101, (text,)))
    while received:
        size = bulk.log.relay_lines(ids, 1, received)
        received = received[size:]
        if received:
            text = Reader(BytesSource(bytes(received[40:]))).string()
            bulk.log.relay(ids, ActivityResult(1, 101, (text,)))
            received = received[len(log_line(1, text)) :]
    assert bulk.log.build_log_bytes == single.log.build_log_bytes == sum(len(text) + 1 for text in texts)
    assert bulk.taken() == single.taken()


def test_lines_of_an_unknown_activity_are_left_alone() -> None:
    """As one by one, where they are dropped."""
    lines = Lines()
    assert lines.log.relay_lines({}, 5, memoryview(log_line(5, b"x"))) == 0
    assert lines.taken() == []
