"""The worker protocol's client against bytes recorded from three Nix releases.

Every test reads the recording to its end: a word missed in one reply spoils the next one, not this one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hook.errors import ProtocolError, RemoteError
from hook.protocol.activity import ActivityResult, LogEvent, LogMessage, ResultType, StartActivity, StopActivity
from hook.protocol.building import BuildResult, Limits
from hook.protocol.handshake import CLIENT_MAGIC, SERVER_MAGIC
from hook.protocol.wire import Reader, Writer
from hook.protocol.worker import (
    Op,
    Stderr,
    WorkerClient,
    read_path_info,
)
from hook.store.derivation import Derivation, DerivationOutput
from hook.store.info import PathInfo
from tests.fakes.source import BytesSource, RecordedChannel

VECTORS = Path(__file__).parent / "vectors" / "wp"
SERVERS = ["2.8", "2.26", "2.34"]
PROTOCOLS = {"2.8": (1, 34), "2.26": (1, 38), "2.34": (1, 38)}


class Script:
    """What the stock client of 2.34 sent in a recording, as values."""

    def __init__(self, data: bytes, version: tuple[int, int]) -> None:
        source = BytesSource(data)
        r = Reader(source)
        assert r.u64() == CLIENT_MAGIC
        r.u64()
        if version >= (1, 38):
            assert r.texts() == []
        r.u64()
        r.u64()
        self.operations: list[tuple[Op, Any]] = []
        self.requests: list[bytes] = []
        while source.left:
            start = source.left
            op = Op(r.u64())
            self.operations.append((op, getattr(self, op.name.lower())(r, source)))
            self.requests.append(start[: len(start) - len(source.left)])

    def query_valid_paths(self, r: Reader, _: BytesSource) -> tuple[list[str], bool]:
        return r.texts(), r.flag()

    def query_path_info(self, r: Reader, _: BytesSource) -> str:
        return r.text()

    nar_from_path = query_path_info

    def add_multiple_to_store(self, r: Reader, source: BytesSource) -> tuple[PathInfo, bytes]:
        assert (r.flag(), r.flag()) == (False, True)
        stream = b""
        while size := r.u64():
            stream += source.read(size)
        inner_source = BytesSource(stream)
        inner = Reader(inner_source)
        assert inner.u64() == 1
        info = read_path_info(inner, inner.text())
        return info, inner_source.left

    def build_derivation(self, r: Reader, _: BytesSource) -> tuple[str, Derivation, list[str]]:
        drv_path = r.text()
        outputs = tuple((r.text(), DerivationOutput(r.text(), r.text(), r.text())) for _ in range(r.u64()))
        inputs = r.texts()
        system, builder = r.text(), r.string()
        args = tuple(r.string() for _ in range(r.u64()))
        env = tuple((r.string(), r.string()) for _ in range(r.u64()))
        assert r.u64() == 0
        return drv_path, Derivation(outputs, (), (), system, builder, args, env), inputs


def load(case: str, server: str) -> tuple[bytes, RecordedChannel, Script]:
    stem = VECTORS / f"{case}-client2.34-server{server}"
    sent = stem.with_suffix(stem.suffix + ".c2s").read_bytes()
    received = stem.with_suffix(stem.suffix + ".s2c").read_bytes()
    return sent, RecordedChannel(received), Script(sent, PROTOCOLS[server])


def framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(8, "little") + payload + bytes(8)


def replay(client: WorkerClient, channel: RecordedChannel, script: Script) -> dict[Op, list[Any]]:
    """Do with our client what the recording's client did; returns every result by operation."""
    results: dict[Op, list[Any]] = {op: [] for op in Op}
    infos: dict[str, PathInfo] = {}
    for op, argument in script.operations:
        channel.mark()
        match op:
            case Op.QUERY_VALID_PATHS:
                results[op].append(client.query_valid_paths(argument[0], argument[1]))
            case Op.ADD_MULTIPLE_TO_STORE:
                info, nar = argument
                for upload in client.plan_upload([info]):
                    ((prefix, _),) = upload.parts
                    channel.write(upload.request + framed(prefix + nar))
                    client.end_upload()
            case Op.BUILD_DERIVATION:
                results[op].append(client.build_derivation(*argument))
            case Op.QUERY_PATH_INFO:
                info = client.query_path_info(argument)
                assert info is not None
                infos[argument] = info
                results[op].append(info)
            case Op.NAR_FROM_PATH:
                client.nar_from_path(argument)
                results[op].append(channel.read(infos[argument].nar_size))
    return results


@pytest.mark.parametrize("server", SERVERS)
def test_a_whole_build_is_what_stock_sends_and_everything_received_is_read(server: str) -> None:
    """Byte for byte the stock client's requests, and not one byte of the daemon's answers left over or missing."""
    sent, channel, script = load("ok", server)
    client = WorkerClient(channel, lambda event: None)
    assert sent.startswith(channel.sent)
    results = replay(client, channel, script)
    assert channel.left == b""
    for (op, _), expected, request in zip(script.operations, script.requests, channel.requests(), strict=True):
        # Stock sends a batch to daemons that cannot be trusted with one; see WorkerClient.adds_multiple.
        if op is Op.ADD_MULTIPLE_TO_STORE and server == "2.8":
            assert request.startswith(Op.ADD_TO_STORE_NAR.to_bytes(8, "little"))
        else:
            assert request == expected
    assert results[Op.QUERY_VALID_PATHS] == [set()]
    assert [result.ok for result in results[Op.BUILD_DERIVATION]] == [True]
    assert [nar[8:21] for nar in results[Op.NAR_FROM_PATH]] == [b"nix-archive-1"] * 2
    for info in results[Op.QUERY_PATH_INFO]:
        assert info.deriver is not None
        assert info.deriver.endswith("-tiny.drv")


@pytest.mark.parametrize("server", SERVERS)
def test_the_handshake_tells_what_the_daemon_is(server: str) -> None:
    """Version and trust decide which operations are used later."""
    _, channel, _ = load("ok", server)
    client = WorkerClient(channel, lambda event: None)
    assert client.version == PROTOCOLS[server]
    assert client.hello.nix_version.startswith(server)
    assert client.hello.nix_release == tuple(map(int, server.split(".")))
    assert client.hello.trusted is (None if server == "2.8" else True)
    assert client.adds_multiple is (server != "2.8")


@pytest.mark.parametrize("server", SERVERS)
def test_a_failed_build_is_a_result_with_the_daemons_message(server: str) -> None:
    """A failure of the derivation is no failure of the connection."""
    _, channel, script = load("fail", server)
    client = WorkerClient(channel, lambda event: None)
    (result,) = replay(client, channel, script)[Op.BUILD_DERIVATION]
    assert not result.ok
    assert "failed with exit code" in result.message
    assert channel.left == b""


@pytest.mark.parametrize("server", SERVERS)
def test_the_build_log_and_its_activities_come_through(server: str) -> None:
    """`nix log` and progress displays are made of these events."""
    _, channel, script = load("ok", server)
    events: list[LogEvent] = []
    replay(WorkerClient(channel, events.append), channel, script)
    lines = [e.fields[0] for e in events if isinstance(e, ActivityResult) and e.type == ResultType.BUILD_LOG_LINE]
    assert len(lines) == 2
    assert lines[1] == b"warn"
    started = {e.id for e in events if isinstance(e, StartActivity)}
    stopped = {e.id for e in events if isinstance(e, StopActivity)}
    assert started
    assert stopped == started


def test_an_error_leaves_the_connection_usable() -> None:
    """An untrusted 2.8 daemon refuses the build with an ERROR; the recording ends right after it."""
    _, channel, script = load("untrusted", "2.8")
    client = WorkerClient(channel, lambda event: None)
    with pytest.raises(RemoteError, match="not privileged to build input-addressed"):
        replay(client, channel, script)
    assert channel.left == b""


# Scripted daemons


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
    assert client.build_derivation("/nix/store/x.drv", derivation, []) == BuildResult(9, "message")
    assert channel.left == b""


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
