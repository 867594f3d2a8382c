"""The worker protocol's client against scripted daemons: every kind of message, every version, every refusal.

Whole recorded builds are in protocol/test_recordings.py.
"""

from collections.abc import Callable

import pytest

from hook.errors import ProtocolError, RemoteError
from hook.protocol.activity import ActivityResult, LogEvent, LogMessage, StartActivity, StopActivity
from hook.protocol.building import BuildResult
from hook.protocol.handshake import SERVER_MAGIC, Hello
from hook.protocol.wire import MAX_SHOWN_BYTES, Reader, Writer
from hook.protocol.worker import Op, Stderr, WorkerClient
from hook.values.derivation import Derivation, DerivationOutput
from hook.values.limits import Limits
from tests.fakes.source import BytesSource, RecordedChannel
from tests.oracles import log_line


def daemon(answer: Callable[[Writer], None], version: int = 0x126) -> RecordedChannel:
    """A channel whose daemon shakes hands and then says what `answer` writes."""
    w = Writer()
    w.u64(SERVER_MAGIC)
    w.u64(version)
    if version >= 0x126:
        w.strings([])
    if version >= 0x121:
        w.string("2.34.8")
    if version >= 0x123:
        w.u64(1)
    w.u64(Stderr.LAST)
    answer(w)
    return RecordedChannel(w.take())


def test_every_kind_of_message_is_passed_on_and_the_second_request_still_works() -> None:
    """All message kinds in one reply, then a plain one on the same connection."""

    def answer(w: Writer) -> None:
        w.u64(Stderr.NEXT)
        w.string("hello\n")
        w.u64(Stderr.START_ACTIVITY)
        for value in (7, 3, 105):
            w.u64(value)
        w.string(b"building \xff")
        w.u64(2)
        w.u64(1)
        w.string("drv")
        w.u64(0)
        w.u64(5)
        w.u64(0)
        w.u64(Stderr.RESULT)
        w.u64(7)
        w.u64(101)
        w.u64(1)
        w.u64(1)
        w.string(b"line \xfe")
        w.u64(Stderr.STOP_ACTIVITY)
        w.u64(7)
        w.u64(Stderr.LAST)
        w.strings(["/nix/store/a"])
        w.u64(Stderr.LAST)
        w.strings([])

    events: list[LogEvent] = []
    channel = daemon(answer)
    client = WorkerClient(channel, events.append)
    assert client.query_valid_paths(["/nix/store/a"], substitute=False) == {"/nix/store/a"}
    assert client.query_valid_paths(["/nix/store/b"], substitute=False) == set()
    assert events == [
        LogMessage(b"hello\n"),
        StartActivity(7, 3, 105, b"building \xff", (b"drv", 5), 0),
        ActivityResult(7, 101, (b"line \xfe",)),
        StopActivity(7),
    ]
    assert channel.left == b""


def test_lines_of_a_build_log_may_be_taken_as_many_as_there_are() -> None:
    """After the first of them; every other message is read as ever, and so is the result."""
    lines = [log_line(7, text) for text in (b"one", b"two", b"three", b"four")]
    progress = b"".join(n.to_bytes(8, "little") for n in (Stderr.RESULT, 7, 105, 0))

    def answer(w: Writer) -> None:
        w.raw(b"".join((*lines[:3], progress, lines[3])))
        w.u64(Stderr.LAST)
        w.strings(["/nix/store/a"])
        w.u64(Stderr.LAST)
        w.strings([])

    def take(activity: int, received: memoryview) -> int:
        assert activity == 7
        size = 0
        for line in lines:
            if received[size : size + len(line)] == line:
                size += len(line)
        events.append(size)
        return size

    events: list[object] = []
    channel = daemon(answer)
    client = WorkerClient(channel, events.append, take)
    assert client.query_valid_paths(["/nix/store/a"], substitute=False) == {"/nix/store/a"}
    assert client.query_valid_paths([], substitute=False) == set()
    assert events == [
        ActivityResult(7, 101, (b"one",)),
        len(lines[1] + lines[2]),
        0,
        ActivityResult(7, 105, ()),
        ActivityResult(7, 101, (b"four",)),
        0,
    ]


def test_an_error_with_traces_is_read_to_its_end() -> None:
    """Traces are dropped, but their bytes must not be taken for the next reply."""

    def answer(w: Writer) -> None:
        w.u64(Stderr.ERROR)
        w.string("Error")
        w.u64(0)
        w.string("Error")
        w.string("no space left")
        w.u64(0)
        w.u64(1)
        w.u64(0)
        w.string("while doing this")
        w.u64(Stderr.LAST)
        w.strings([])

    client = WorkerClient(daemon(answer), lambda event: None)
    with pytest.raises(RemoteError, match="no space left"):
        client.query_valid_paths([], substitute=False)
    assert client.query_valid_paths([], substitute=False) == set()


@pytest.mark.parametrize(
    ("version", "extra"),
    [(0x115, []), (0x11C, [0]), (0x11D, [0, 0, 0, 0, 0]), (0x125, [0, 0, 0, 0, 1, 17, 0, 0])],
)
def test_a_build_result_is_read_at_every_version(version: int, extra: list[int]) -> None:
    """Fields were added at 1.28 (outputs), 1.29 (times) and 1.37 (cpu times)."""

    def answer(w: Writer) -> None:
        w.u64(Stderr.LAST)
        w.u64(9)
        w.string("message")
        for value in extra:
            w.u64(value)

    channel = daemon(answer, version)
    client = WorkerClient(channel, lambda event: None)
    derivation = Derivation((("out", DerivationOutput("/nix/store/x")),), (), (), "s", b"b", (), ())
    assert client.build_derivation("/nix/store/x.drv", derivation, []).get() == BuildResult(9, "message")
    assert channel.left == b""


FLOATING = tuple((name, DerivationOutput("", "r:sha256")) for name in ("dev", "out"))
REPORTED = {"dev": "{1}", "lib": "{2}", "out": "{3}"}


def test_only_outputs_whose_paths_are_news_are_kept_from_a_result() -> None:
    """A daemon reports all of them, and as many more as it likes; the next answer follows."""

    def answer(w: Writer) -> None:
        for _ in range(2):
            w.u64(Stderr.LAST)
            for value in (0, 0, 0, 0, 0, 0, 0, 0, len(REPORTED)):
                w.u64(value)
            for name, json in REPORTED.items():
                w.string(f"sha256:{'0' * 64}!{name}")
                w.string(json)

    channel = daemon(answer)
    client = WorkerClient(channel, lambda event: None)
    for outputs, kept in (
        (FLOATING, {"dev": b"{1}", "out": b"{3}"}),
        ((("out", DerivationOutput("/nix/store/x")),), {}),
    ):
        derivation = Derivation(outputs, (), (), "s", b"b", (), ())
        assert client.build_derivation("/nix/store/x.drv", derivation, []).get().realisations == kept
    assert channel.left == b""


@pytest.mark.parametrize("count", [0, 2])
def test_one_build_has_one_result(count: int) -> None:
    """Another number of them answers another question."""

    def answer(w: Writer) -> None:
        w.u64(Stderr.LAST)
        w.u64(count)

    client = WorkerClient(daemon(answer), lambda event: None)
    with pytest.raises(ProtocolError, match=f"got {count} results"):
        client.build_paths_with_results("/nix/store/x.drv").get()


def test_limits_are_sent_in_the_daemons_order_and_only_if_there_are_any() -> None:
    """Thirteen fields without names: the layout is the only protection."""
    channel = daemon(lambda w: w.u64(Stderr.LAST))
    client = WorkerClient(channel, lambda event: None)
    channel.sent.clear()
    client.set_limits(Limits(), 3, substitute=True)
    assert channel.sent == b""
    client.set_limits(Limits(60, 5, 0, keep_failed=True), 1, substitute=True)
    r = Reader(source := BytesSource(bytes(channel.sent)))
    assert r.u64() == Op.SET_OPTIONS
    assert [r.u64() for _ in range(12)] == [1, 0, 0, 3, 1, 60, 1, 0, 0, 0, 0, 1]
    assert r.u64() == 1
    assert (r.text(), r.text()) == ("timeout", "5")
    assert source.left == b""


@pytest.mark.parametrize(
    "words",
    [
        [0x12345678],
        [Stderr.RESULT, 1, 101, 5000],
        [Stderr.RESULT, 1, 101, 1, 2],
        [Stderr.NEXT, 2**40],
    ],
)
def test_what_the_protocol_does_not_allow_ends_the_connection(words: list[int]) -> None:
    """An unknown message, endless fields, an unknown field kind, an endless line."""

    def answer(w: Writer) -> None:
        for word in words:
            w.u64(word)

    client = WorkerClient(daemon(answer), lambda event: None)
    with pytest.raises(ProtocolError):
        client.query_valid_paths([], substitute=False)


def test_what_people_only_see_takes_a_bounded_amount_of_memory() -> None:
    """The fields of one message together, however many."""

    def answer(w: Writer) -> None:
        for word in (Stderr.RESULT, 1, 101, 3):
            w.u64(word)
        for _ in range(3):
            w.u64(1)
            w.string(b"x" * MAX_SHOWN_BYTES)
        w.u64(Stderr.LAST)
        w.strings([])

    events: list[LogEvent] = []
    client = WorkerClient(daemon(answer), events.append)
    client.query_valid_paths([], substitute=False)
    (event,) = events
    assert isinstance(event, ActivityResult)
    left_out = b"[%d bytes left out]" % MAX_SHOWN_BYTES
    assert event.fields == (b"x" * MAX_SHOWN_BYTES, left_out, left_out)


def test_only_what_was_asked_about_is_heard() -> None:
    """A daemon that lists more valid paths than there were in the question has another one in mind."""

    def answer(w: Writer) -> None:
        w.u64(Stderr.LAST)
        w.strings(["/nix/store/a", "/nix/store/b"])

    client = WorkerClient(daemon(answer), lambda event: None)
    with pytest.raises(ProtocolError, match="list of 2 elements where at most 1 are allowed"):
        client.query_valid_paths(["/nix/store/a"], substitute=False)


@pytest.mark.parametrize("nix_version", ["²³.⁵", "9" * 4000, "2." + "9" * 4000, "٣.٤", "", "2.", ".5", "unstable"])
def test_a_daemon_may_call_itself_anything(nix_version: str) -> None:
    """What a release is taken for decides how an upload goes, never whether we survive the greeting."""
    hello = Hello((1, 38), nix_version=nix_version)
    assert all(0 <= number < 10**9 for number in hello.nix_release)


@pytest.mark.parametrize(("nix_version", "release"), [("2.3", (2, 3)), ("2.19pre20231201_c0ffee", (2, 19))])
def test_a_release_is_known_by_its_first_two_numbers(nix_version: str, release: tuple[int, int]) -> None:
    assert Hello((1, 38), nix_version=nix_version).nix_release == release


def test_a_malformed_hash_is_the_daemons_fault() -> None:
    """The rest of its answer is unread: no other build may have this connection."""

    def answer(w: Writer) -> None:
        w.u64(Stderr.LAST)
        w.u64(1)
        w.string("")
        w.string("sha256:nonsense")

    client = WorkerClient(daemon(answer), lambda event: None)
    with pytest.raises(ProtocolError, match="is not a sha256 hash"):
        client.query_path_info("/nix/store/a").get()


# Handshakes that fail


def test_text_before_the_protocol_is_quoted_and_explained() -> None:
    """Today's users see "serialised integer … is too big" and ask in forums what it means."""
    channel = RecordedChannel(b"Welcome to builder!\n\x1b[31mHave fun\n")
    with pytest.raises(ProtocolError) as error:
        WorkerClient(channel, lambda event: None)
    text = str(error.value)
    assert r"got 'Welcome to builder!\n\x1b[31mHave fun\n'" in text
    assert "shell profile" in text
    assert "\n" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize("noise", [b"x", b"oixd\0\0\0", b"Welcome to builder!\n", b"y\n" * 30_000])
def test_text_before_the_protocol_is_skipped_where_that_follows(noise: bytes) -> None:
    """Even if it ends like the first word begins; nothing of what follows is lost."""
    channel = daemon(lambda w: None)
    channel.left = noise + channel.left
    client = WorkerClient(channel, lambda event: None)
    assert client.noise == noise
    assert client.hello.nix_version == "2.34.8"
    assert channel.left == b""


def test_text_without_an_end_is_not_listened_to_for_ever() -> None:
    channel = RecordedChannel(b"y\n" * 1_000_000)
    with pytest.raises(ProtocolError, match=r"got 'y\\ny"):
        WorkerClient(channel, lambda event: None)


@pytest.mark.parametrize(
    ("version", "expected"), [(0x109, "protocol 1.9 is too old (need 1.21"), (0x226, "protocol 2.38 is not supported")]
)
def test_a_daemon_of_another_age_is_refused_by_name(version: int, expected: str) -> None:
    """The line must say which versions would do."""
    w = Writer()
    w.u64(SERVER_MAGIC)
    w.u64(version)
    with pytest.raises(ProtocolError) as error:
        WorkerClient(RecordedChannel(w.take()), lambda event: None)
    assert expected in str(error.value)
