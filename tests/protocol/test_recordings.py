"""The worker protocol's client against bytes recorded from five Nix releases.

Every test reads the recording to its end: a word missed in one reply spoils the next one, not this one.
"""

from dataclasses import replace
from typing import Any

import pytest

from hook.errors import RemoteError
from hook.protocol.activity import ActivityResult, LogEvent, ResultType, StartActivity, StopActivity
from hook.protocol.building import BuiltPath
from hook.protocol.handshake import CLIENT_MAGIC, OUTPUTS_AS_PATHS
from hook.protocol.wire import Reader, Writer
from hook.protocol.worker import Op, Stderr, WorkerClient, read_path_info
from hook.values.derivation import Derivation, DerivationOutput, resolved_hash
from hook.values.info import PathInfo, check_content_address
from hook.values.realisation import OutputId, parse_realisation
from tests import VECTORS
from tests.fakes.source import BytesSource, RecordedChannel

RECORDED = VECTORS / "wp"
SERVERS = ["2.8", "2.26", "2.34"]
"""Of recordings with the client of 2.34."""

PAIRS = [*(("2.34", server) for server in SERVERS), ("2.35", "2.34"), ("2.35", "2.35"), ("2.36", "2.36")]
PROTOCOLS = {"2.8": (1, 34), "2.26": (1, 38), "2.34": (1, 38), "2.35": (1, 38), "2.36": (1, 38)}


class Script:
    """What the stock client sent in a recording, as values; `handshake` as we send it, who offer only what we know."""

    def __init__(self, data: bytes, version: tuple[int, int]) -> None:
        source = BytesSource(data)
        r = Reader(source)
        w = Writer()
        assert r.u64() == CLIENT_MAGIC
        w.u64(CLIENT_MAGIC)
        w.u64(r.u64())
        if version >= (1, 38):
            offered = r.texts()
            assert not offered or OUTPUTS_AS_PATHS in offered
            w.strings([OUTPUTS_AS_PATHS])
        w.u64(r.u64())
        w.u64(r.u64())
        self.handshake = w.take()
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

    def add_multiple_to_store(self, r: Reader, source: BytesSource) -> list[tuple[PathInfo, bytes]]:
        assert (r.flag(), r.flag()) == (False, True)
        stream = b""
        while size := r.u64():
            stream += source.read(size)
        inner_source = BytesSource(stream)
        inner = Reader(inner_source)
        infos = (read_path_info(inner, inner.text()) for _ in range(inner.u64()))
        return [(info, inner_source.read(info.nar_size)) for info in infos]

    def build_paths_with_results(self, r: Reader, _: BytesSource) -> str:
        (wanted,) = r.texts()
        assert r.u64() == 0
        return wanted.removesuffix("!*")

    def build_derivation(self, r: Reader, _: BytesSource) -> tuple[str, Derivation, list[str]]:
        drv_path = r.text()
        outputs = tuple((r.text(), DerivationOutput(r.text(), r.text(), r.text())) for _ in range(r.u64()))
        inputs = r.texts()
        system, builder = r.text(), r.string()
        args = tuple(r.string() for _ in range(r.u64()))
        env = tuple((r.string(), r.string()) for _ in range(r.u64()))
        assert r.u64() == 0
        return drv_path, Derivation(outputs, (), (), system, builder, args, env), inputs


def load(case: str, server: str, connection: str = "", client: str = "2.34") -> tuple[bytes, RecordedChannel, Script]:
    stem = RECORDED / f"{case}-client{client}-server{server}{connection}"
    sent = stem.with_suffix(stem.suffix + ".c2s").read_bytes()
    received = stem.with_suffix(stem.suffix + ".s2c").read_bytes()
    return sent, RecordedChannel(received), Script(sent, PROTOCOLS[server])


def framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(8, "little") + payload + bytes(8)


def replay(client: WorkerClient, channel: RecordedChannel, script: Script) -> dict[Op, list[Any]]:
    """Do with our client what the recording's client did; returns every result by operation."""
    results: dict[Op, list[Any]] = {op: [] for op in Op}
    infos: dict[str, PathInfo] = {}
    for (op, argument), request in zip(script.operations, script.requests, strict=True):
        channel.mark()
        match op:
            case Op.QUERY_VALID_PATHS:
                results[op].append(client.query_valid_paths(argument[0], argument[1]))
            case Op.ADD_MULTIPLE_TO_STORE if not argument:
                # Stock also sends that it has nothing to send.
                assert list(client.plan_upload(0, [])) == []
                channel.write(request)
                assert Reader(channel).u64() == Stderr.LAST
            case Op.ADD_MULTIPLE_TO_STORE:
                ((info, nar),) = argument
                for upload in client.plan_upload(1, [info]):
                    ((prefix, _),) = upload.parts
                    channel.write(upload.request + framed(prefix + nar))
                    client.end_upload()
            case Op.BUILD_DERIVATION:
                results[op].append(client.build_derivation(*argument).get())
            case Op.BUILD_PATHS_WITH_RESULTS:
                results[op].append(client.build_paths_with_results(argument).get())
            case Op.QUERY_PATH_INFO:
                info = client.query_path_info(argument).get()
                assert info is not None
                infos[argument] = info
                results[op].append(info)
            case Op.NAR_FROM_PATH:
                client.nar_from_path(argument).get()
                results[op].append(channel.read(infos[argument].nar_size))
    return results


@pytest.mark.parametrize(("stock", "server"), PAIRS)
def test_a_whole_build_is_what_stock_sends_and_everything_received_is_read(stock: str, server: str) -> None:
    """Byte for byte the stock client's requests, and not one byte of the daemon's answers left over or missing."""
    _, channel, script = load("ok", server, client=stock)
    client = WorkerClient(channel, lambda event: None)
    assert channel.sent == script.handshake
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
        assert info.deriver.endswith(("-tiny.drv", "-rec-ok.drv"))


@pytest.mark.parametrize(("stock", "server"), PAIRS)
@pytest.mark.parametrize("connection", ["-a", "-b"])
def test_a_build_of_floating_outputs_says_where_they_are(stock: str, server: str, connection: str) -> None:
    """What stock copies next is what our client finds in the result, under the id that is computed here.

    The daemon of 2.35 has a key, with which it signs the one thing as the other.
    """
    _, channel, script = load("ca", server, connection, stock)
    client = WorkerClient(channel, lambda event: None)
    results = replay(client, channel, script)
    assert channel.left == b""
    assert channel.requests() == script.requests
    assert client.reports_outputs
    (result,) = results[Op.BUILD_DERIVATION]
    ((_, derivation, inputs),) = [argument for op, argument in script.operations if op is Op.BUILD_DERIVATION]
    resolved = replace(derivation, input_srcs=tuple(inputs))
    assert sorted(result.realisations) == sorted(name for name, _ in derivation.outputs)
    paths = set()
    for name, said in result.realisations.items():
        if isinstance(said, BuiltPath):
            assert server in ("2.35", "2.36")
            assert [signature.partition(":")[0] for signature in said.signatures] == ["b35-1"] * (server == "2.35")
            paths.add(said.path)
        else:
            assert server not in ("2.35", "2.36")
            realisation = parse_realisation(said, "/nix/store")
            assert realisation.id == OutputId(f"sha256:{resolved_hash(resolved).hex()}", name)
            assert realisation.dependencies == {}
            paths.add(realisation.out_path)
    copied = {info.path: info for info in results[Op.QUERY_PATH_INFO]}
    assert paths == copied.keys()
    assert all(check_content_address(info, "/nix/store") for info in copied.values())


@pytest.mark.parametrize("server", ["2.26", "2.34"])
def test_a_daemon_that_does_not_trust_us_is_sent_the_derivation(server: str) -> None:
    """Byte for byte what stock sends, and the one result of operation 46 is read to its end."""
    _, channel, script = load("untrusted", server)
    client = WorkerClient(channel, lambda event: None)
    assert client.trusted is False
    results = replay(client, channel, script)
    assert channel.left == b""
    assert channel.requests() == script.requests
    assert [result.ok for result in results[Op.BUILD_PATHS_WITH_RESULTS]] == [True]
    assert [nar[8:21] for nar in results[Op.NAR_FROM_PATH]] == [b"nix-archive-1"] * 2


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


@pytest.mark.parametrize(("stock", "server"), PAIRS)
def test_a_failed_build_is_a_result_with_the_daemons_message(stock: str, server: str) -> None:
    """A failure of the derivation is no failure of the connection."""
    _, channel, script = load("fail", server, client=stock)
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
