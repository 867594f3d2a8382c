"""The serve protocol's client against bytes recorded from five Nix releases.

Every test reads the recording to its end: a word missed in one reply spoils the next one, not this one.
"""

import pytest

from hook.errors import ProtocolError
from hook.protocol.building import BuildResult, BuiltPath
from hook.protocol.serve import CLIENT_MAGIC, SERVER_MAGIC, Command, ServeClient
from hook.protocol.wire import Reader, Writer
from hook.values.derivation import Derivation, DerivationOutput
from hook.values.info import PathInfo, parse_hash
from hook.values.limits import Limits
from hook.values.realisation import parse_realisation
from tests import VECTORS
from tests.fakes.source import BytesSource, RecordedChannel

RECORDED = VECTORS / "sp"
PAIRS = [("2.34", "2.8"), ("2.34", "2.26"), ("2.34", "2.34"), ("2.35", "2.34"), ("2.35", "2.35"), ("2.36", "2.36")]
"""The stock client and the server of a recording."""


class Conversation:
    """A recording of a stock client, replayed with ours; `result` and others collect what the methods returned."""

    def __init__(self, case: str, client: str, server: str) -> None:
        name, _, connection = case.partition("-")
        stem = RECORDED / f"{name}-client{client}-server{server}{'-' + connection if connection else ''}"
        source = BytesSource(stem.with_suffix(stem.suffix + ".c2s").read_bytes())
        self.channel = RecordedChannel(stem.with_suffix(stem.suffix + ".s2c").read_bytes())
        r = Reader(source)
        assert (r.u64(), r.u64()) == (CLIENT_MAGIC, 0x207 if client == "2.34" else 0x208)
        self.client = ServeClient(self.channel)
        self.names: list[str] = []
        self.nars: list[bytes] = []
        self.infos: dict[str, PathInfo] = {}
        self.result: BuildResult | None = None
        while source.left:
            before = source.left
            command = Command(r.u64())
            self.channel.sent.clear()
            getattr(self, command.name.lower())(r, source)
            request = before[: len(before) - len(source.left)]
            if command is Command.QUERY_VALID_PATHS:
                # Stock sends lock = 0 here; with 1 the paths stay for as long as the connection lasts.
                request = request[:8] + (1).to_bytes(8, "little") + request[16:]
            assert bytes(self.channel.sent) == request

    def query_valid_paths(self, r: Reader, _: BytesSource) -> None:
        r.flag()
        substitute = r.flag()
        self.client.query_valid_paths(r.texts(), substitute)

    def query_path_infos(self, r: Reader, _: BytesSource) -> None:
        (path,) = r.texts()
        info = self.client.query_path_info(path).get()
        if info is not None:
            self.infos[path] = info

    def add_to_store_nar(self, r: Reader, source: BytesSource) -> None:
        path, deriver, digest, references = r.text(), r.text(), r.text(), r.texts()
        time, size, ultimate, signatures, ca = r.u64(), r.u64(), r.flag(), r.texts(), r.text()
        info = PathInfo(
            path=path,
            deriver=deriver or None,
            nar_hash=parse_hash(digest, "sha256"),
            nar_size=size,
            references=tuple(references),
            registration_time=time,
            ultimate=ultimate,
            signatures=tuple(signatures),
            ca=ca,
        )
        (upload,) = self.client.plan_upload(1, [info])
        assert not upload.framed
        self.channel.write(upload.request + source.read(size))
        self.client.end_upload()

    def build_derivation(self, r: Reader, _: BytesSource) -> None:
        drv_path = r.text()
        outputs = tuple((r.text(), DerivationOutput(r.text(), r.text(), r.text())) for _ in range(r.u64()))
        self.names = [name for name, _ in outputs]
        inputs, system, builder = r.texts(), r.text(), r.string()
        args = tuple(r.string() for _ in range(r.u64()))
        env = tuple((r.string(), r.string()) for _ in range(r.u64()))
        assert [r.u64() for _ in range(6)] == [0] * 6
        derivation = Derivation(outputs, (), (), system, builder, args, env)
        self.result = self.client.build_derivation(drv_path, derivation, inputs).get()

    def dump_store_path(self, r: Reader, _: BytesSource) -> None:
        path = r.text()
        self.client.nar_from_path(path).get()
        self.nars.append(self.channel.read(self.infos[path].nar_size))


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_a_whole_build_is_what_stock_sends_and_everything_received_is_read(client: str, server: str) -> None:
    """Byte for byte the stock client's requests but for one flag, and every byte of the answers."""
    conversation = Conversation("ok", client, server)
    assert conversation.channel.left == b""
    assert conversation.result is not None
    assert conversation.result.ok
    assert [nar[8:21] for nar in conversation.nars] == [b"nix-archive-1"] * 2
    for info in conversation.infos.values():
        assert info.deriver is not None
        assert info.deriver.endswith(("-tiny.drv", "-rec-ok.drv"))


@pytest.mark.parametrize(("client", "server"), PAIRS[3:])
@pytest.mark.parametrize("case", ["ca-a", "ca-b"])
def test_a_build_of_floating_outputs_says_where_they_are(case: str, client: str, server: str) -> None:
    """What stock copies next is what our client finds in the result; the server of 2.35 signs it."""
    conversation = Conversation(case, client, server)
    assert conversation.channel.left == b""
    assert conversation.result is not None
    said = conversation.result.realisations
    assert sorted(said) == sorted(conversation.names)
    paths = set()
    for built in said.values():
        if isinstance(built, BuiltPath):
            assert [signature.partition(":")[0] for signature in built.signatures] == ["b35-1"] * (server == "2.35")
            paths.add(built.path)
        else:
            assert server == "2.34"
            paths.add(parse_realisation(built, "/nix/store").out_path)
    assert paths <= conversation.infos.keys()


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_a_failed_build_is_a_result_with_its_message(client: str, server: str) -> None:
    """A failure of the derivation is no failure of the connection."""
    conversation = Conversation("fail", client, server)
    assert conversation.channel.left == b""
    assert conversation.result is not None
    assert not conversation.result.ok
    assert "failed with exit code" in conversation.result.message


def server_says(*words: int | str, version: int = 0x207) -> RecordedChannel:
    w = Writer()
    w.u64(SERVER_MAGIC)
    w.u64(version)
    for word in words:
        if isinstance(word, int):
            w.u64(word)
        else:
            w.string(word)
    return RecordedChannel(w.take())


def test_limits_and_keep_failed_are_in_their_places() -> None:
    """Six numbers without names."""
    channel = server_says(0, "", 0, 0, 0, 0, 0)
    client = ServeClient(channel)
    client.set_limits(Limits(11, 22, 33, keep_failed=True), 3, substitute=True)
    derivation = Derivation((("out", DerivationOutput("/nix/store/x")),), (), (), "s", b"b", (), ())
    assert client.build_derivation("/nix/store/x.drv", derivation, []).get().ok
    assert channel.left == b""
    words = [
        int.from_bytes(channel.sent[i : i + 8], "little") for i in range(len(channel.sent) - 48, len(channel.sent), 8)
    ]
    assert words == [11, 22, 33, 0, 0, 1]


def test_a_result_says_where_floating_outputs_are() -> None:
    """Each output id with its realisation; the next question still works."""
    output_id, json = f"sha256:{'ab' * 32}!out", '{"outPath":"x"}'
    channel = server_says(0, "", 0, 0, 0, 0, 1, output_id, json, 0)
    client = ServeClient(channel)
    assert client.reports_outputs
    derivation = Derivation((("out", DerivationOutput("", "r:sha256")),), (), (), "s", b"b", (), ())
    assert client.build_derivation("/nix/store/x.drv", derivation, []).get().realisations == {"out": json.encode()}
    assert client.query_valid_paths([], substitute=False) == set()
    assert channel.left == b""


def test_a_server_without_realisations_says_nothing_about_outputs() -> None:
    """Nix 2.4's predecessors; their result is shorter."""
    channel = server_says(0, "", 0, 0, 0, 0, version=0x205)
    client = ServeClient(channel)
    assert not client.reports_outputs
    derivation = Derivation((("out", DerivationOutput("", "r:sha256")),), (), (), "s", b"b", (), ())
    assert client.build_derivation("/nix/store/x.drv", derivation, []).get().realisations == {}
    assert channel.left == b""


def test_an_invalid_path_has_no_info_and_the_next_question_still_works() -> None:
    """The reply is just the end marker."""
    channel = server_says("", 0)
    client = ServeClient(channel)
    assert client.query_path_info("/nix/store/x").get() is None
    assert client.query_valid_paths([], substitute=False) == set()
    assert channel.left == b""


@pytest.mark.parametrize("answer", [("/nix/store/other",), (7,)])
def test_answers_to_other_questions_are_refused(answer: tuple[int | str, ...]) -> None:
    """Told about another path, or a confirmation that is none."""
    client = ServeClient(server_says(*answer))
    with pytest.raises(ProtocolError):
        if isinstance(answer[0], str):
            client.query_path_info("/nix/store/x").get()
        else:
            client.poll_upload()


def test_text_before_the_protocol_is_quoted_and_explained() -> None:
    """The same trouble, the same line as with `ssh-ng://`."""
    with pytest.raises(ProtocolError, match="got 'Last login: yesterday"):
        ServeClient(RecordedChannel(b"Last login: yesterday\n"))


def test_text_before_the_protocol_is_skipped_where_that_follows() -> None:
    channel = server_says()
    channel.left = b"Last login: yesterday\n" + channel.left
    client = ServeClient(channel)
    assert (client.noise, client.version, channel.left) == (b"Last login: yesterday\n", (2, 7), b"")


@pytest.mark.parametrize(("version", "expected"), [(0x204, "2.4 is too old"), (0x307, "3.7 is not supported")])
def test_a_server_of_another_age_is_refused_by_name(version: int, expected: str) -> None:
    """The line must say which version is meant."""
    with pytest.raises(ProtocolError, match=expected):
        ServeClient(server_says(version=version))
