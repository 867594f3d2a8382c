"""Uploads against peers that answer when it suits the test.  Downloads are in test_download.py."""

import os
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hook.errors import ConnectionLost, ProtocolError, RemoteError, StoreError
from hook.front.log import Log
from hook.protocol import serve, worker
from hook.protocol.activity import Verbosity
from hook.protocol.wire import Reader
from hook.protocol.worker import Stderr
from hook.store.nar import Dumper
from hook.transfer.copier import CHUNK_BYTES, Copier, LocalEnd
from hook.transfer.meter import Meter
from hook.values.info import PathInfo
from tests import oracles
from tests.fakes.source import BytesSource
from tests.transfer.peer import VALID, Peer


class Store:
    """Regular files, whose NARs are known."""

    def __init__(self, root: Path, contents: list[bytes]) -> None:
        self._root = str(root)
        self.infos, self.nars = [], []
        for number, content in enumerate(contents):
            path = f"/nix/store/{number:032}-file"
            Path(self.real_path(path)).write_bytes(content)
            with Dumper(self.real_path(path)) as dumper:
                while dumper.read_into(bytearray(1 << 20)):
                    pass
                self.infos.append(PathInfo(path, None, dumper.digest(), dumper.size, ()))
            self.nars.append(oracles.nar(oracles.File(content)))

    def real_path(self, path: str) -> str:
        # Not by pathlib, which has every name interned: now and then that table grows by a MiB, whoever is measured.
        return os.path.join(self._root, os.path.basename(path))


class Sending:
    """Files sent to a peer that does as `act` says after the handshake."""

    def __init__(self, root: Path, release: str, contents: list[bytes], act: Callable[[Peer], None]) -> None:
        self.store = Store(root, contents)
        self.meter = Meter()

        def speak(peer: Peer) -> None:
            peer.shake_hands(release)
            act(peer)

        self.peer = Peer(speak)
        stream = self.peer.stream
        self.client = (
            serve.ServeClient(stream) if release == "serve" else worker.WorkerClient(stream, lambda event: None)
        )

    def run(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            remote = cast(Any, SimpleNamespace(client=self.client, stream=self.peer.stream, name="peer"))
            infos = self.store.infos
            here = LocalEnd(cast(Any, self.store), cast(Any, None), Log(null, Verbosity.ERROR), self.meter, (2, 34))
            Copier(remote, here).upload(len(infos), sum(info.nar_size for info in infos), iter(infos))
        finally:
            os.close(null)

    def ask(self) -> None:
        """The peer must understand it, and we the answer."""
        assert self.client.query_valid_paths([VALID], substitute=False) == {VALID}


Send = Callable[[str, list[bytes], Callable[[Peer], None]], Sending]


@pytest.fixture
def send(tmp_path: Path) -> Iterator[Send]:
    made: list[Sending] = []

    def start(release: str, contents: list[bytes], act: Callable[[Peer], None]) -> Sending:
        made.append(Sending(tmp_path, release, contents, act))
        return made[-1]

    yield start
    for sending in made:
        sending.peer.end()


def check_sent(sending: Sending) -> None:
    sending.run()
    sending.ask()
    assert sending.peer.nars == sending.store.nars


PATHS = 2000
MOST_BYTES = 512 << 10
"""What a copy may need for its buffers: some 300 bytes for each path would be more than this."""

FILES = [b"x" * size for size in (0, 1, 3000, CHUNK_BYTES, 3 * CHUNK_BYTES + 5, 7)]


def test_no_path_waits_for_the_answer_to_the_one_before_it(send: Send) -> None:
    """A round trip for each of thousands of paths is what made uploads over `ssh` slow."""

    def act(peer: Peer) -> None:
        for _ in FILES:
            peer.take_served_path()
        peer.say(*[1] * len(FILES))
        peer.answer(peer.r.u64())

    check_sent(send("serve", FILES, act))


def test_nor_does_it_where_each_path_is_an_operation_of_its_own(send: Send) -> None:
    """Daemons before Nix 2.18, which cannot be given a batch."""

    def act(peer: Peer) -> None:
        for _ in FILES:
            peer.take_path()
        for _ in FILES:
            peer.say(Stderr.NEXT, "a remark\n", Stderr.LAST)
        peer.answer(peer.r.u64())

    check_sent(send("2.8.0", FILES, act))


def test_answers_are_taken_whenever_they_come(send: Send) -> None:
    """The peer would stop reading if nobody read what it says."""

    def act(peer: Peer) -> None:
        for _ in range(400):
            peer.take_served_path()
            peer.say(1)
        peer.answer(peer.r.u64())

    check_sent(send("serve", [b"x" * 4096] * 400, act))


@pytest.mark.parametrize("size", [1, 7, 8, 9, 100, 32 << 10, CHUNK_BYTES - 8, CHUNK_BYTES, 1 << 40])
def test_a_daemon_that_asks_for_each_piece_gets_it(send: Send, size: int) -> None:
    """Before Nix 2.4: in pieces of any size, which are padded each and end anywhere."""
    files = FILES if size > 9 else FILES[:3]

    def act(peer: Peer) -> None:
        for _ in files:
            peer.pull_path(repeat(size))
        peer.answer(peer.r.u64())

    check_sent(send("2.3.7", files, act))


def test_a_piece_may_end_at_any_byte(send: Send) -> None:
    """Of a NAR whose every word is cut once."""
    contents = [b"content"]
    nar = oracles.nar(oracles.File(contents[0]))

    def act(peer: Peer) -> None:
        for cut in range(1, len(nar)):
            peer.pull_path(iter([cut, len(nar)]))
        peer.answer(peer.r.u64())

    sending = send("2.3.7", contents, act)
    sending.store.infos *= len(nar) - 1
    sending.run()
    sending.ask()
    assert sending.peer.nars == [nar] * (len(nar) - 1)


@pytest.mark.parametrize("asked", [0, 1, 50])
def test_a_daemon_may_have_enough_before_the_end(send: Send, asked: int) -> None:
    """Of a path that is valid by now it wants nothing; and whatever it has refused it does not want the rest of."""

    def act(peer: Peer) -> None:
        for refused in (False, True):
            assert peer.r.u64() == worker.Op.ADD_TO_STORE_NAR
            worker.read_path_info(peer.r, peer.r.text())
            peer.r.flag(), peer.r.flag()
            if asked:
                peer.say(Stderr.READ, asked)
                assert len(peer.r.string()) == asked
            if refused:
                peer.say(Stderr.ERROR, "not today", 1)
            else:
                peer.say(Stderr.LAST)
        peer.answer(peer.r.u64())

    sending = send("2.3.7", FILES[2:4], act)
    with pytest.raises(RemoteError, match="not today"):
        sending.run()
    sending.ask()


def test_a_path_that_became_shorter_is_not_passed_off_either(send: Send) -> None:
    """A daemon that asks would wait for the rest."""

    def act(peer: Peer) -> None:
        peer.read(8)
        info = worker.read_path_info(peer.r, peer.r.text())
        peer.r.flag(), peer.r.flag()
        peer.say(Stderr.READ, info.nar_size)
        assert len(peer.r.string()) == info.nar_size - 8
        peer.say(Stderr.READ, 8)

    sending = send("2.3.7", [b"a" * 9], act)
    Path(sending.store.real_path(sending.store.infos[0].path)).write_bytes(b"b" * 8)
    with pytest.raises(StoreError, match=r"file' was modified; see 'nix-store --verify"):
        sending.run()


@pytest.mark.parametrize("release", ["2.8.0", "2.34.8"])
def test_a_newer_daemon_has_nothing_to_ask_for(send: Send, release: str) -> None:
    """One that does has lost track."""

    def act(peer: Peer) -> None:
        peer.read(8)
        peer.say(Stderr.READ, 8)

    with pytest.raises(ProtocolError, match="unexpected word 0x64617461"):
        send(release, [b"x"], act).run()


@pytest.mark.parametrize("margin", range(-24, 25, 8))
def test_a_batch_is_the_same_wherever_the_buffer_ends(send: Send, margin: int) -> None:
    """The end of the buffer meets the head of a frame, the end of a NAR and everything between."""
    contents = [b"x" * (CHUNK_BYTES - 700 + margin), b"", b"y" * 100]

    def act(peer: Peer) -> None:
        assert [peer.r.u64() for _ in range(3)] == [worker.Op.ADD_MULTIPLE_TO_STORE, 0, 1]
        payload = BytesSource(b"".join(peer.frames()))
        r = Reader(payload)
        for _ in range(r.u64()):
            peer.nars.append(payload.read(worker.read_path_info(r, r.text()).nar_size))
        assert not payload.left
        peer.say(Stderr.LAST)
        peer.answer(peer.r.u64())

    check_sent(send("2.34.8", contents, act))


@pytest.mark.parametrize("refused", [0, 2, 5])
def test_a_refused_path_leaves_the_connection_usable(send: Send, refused: int) -> None:
    """Those behind it are on their way already: their answers must not be taken for others."""

    def act(peer: Peer) -> None:
        # How many follow the refused one before we notice is a matter of chance.
        while (op := peer.r.u64()) == worker.Op.ADD_TO_STORE_NAR:
            peer.take_path_after_op()
            if len(peer.nars) == refused + 1:
                peer.refuse()
            else:
                peer.say(Stderr.LAST)
        peer.answer(op)

    sending = send("2.8.0", FILES, act)
    with pytest.raises(RemoteError, match="not today"):
        sending.run()
    sending.ask()


def test_a_batch_is_given_up_in_the_middle(send: Send) -> None:
    """The daemon drops what it receives until the frames end."""
    sent = []

    def act(peer: Peer) -> None:
        peer.read(3 * 8)
        peer.refuse()
        sent.extend(map(len, peer.frames()))
        peer.answer(peer.r.u64())

    sending = send("2.34.8", [b"x" * (8 << 20)] * 2, act)
    with pytest.raises(RemoteError, match="not today"):
        sending.run()
    sending.ask()
    assert sum(sent) < 8 << 20


def test_a_path_that_was_modified_is_not_passed_off(send: Send) -> None:
    """It is our own store that is damaged: no other machine could do better.  One of the same size the peer refuses."""

    sending = send("serve", [b"a" * 8], lambda peer: peer.take_served_path())
    Path(sending.store.real_path(sending.store.infos[0].path)).write_bytes(b"b" * 9)
    with pytest.raises(StoreError, match=r"file' was modified; see 'nix-store --verify"):
        sending.run()


def test_a_server_that_dies_on_the_way_is_noticed(send: Send) -> None:
    """Whether a write or a read notices first."""
    sending = send("serve", [b"x" * (1 << 20)] * 4, lambda peer: peer.take_served_path())
    with pytest.raises(ConnectionLost):
        sending.run()


@pytest.mark.parametrize("release", ["serve", "2.8.0", "2.34.8"])
def test_a_copy_needs_no_more_memory_for_more_paths(send: Send, release: str) -> None:
    """Besides what is known of each path beforehand: a closure may have any number of them."""

    def act(peer: Peer) -> None:
        if release == "2.34.8":
            peer.read(3 * 8)
            for _ in peer.frames():
                pass
            peer.say(Stderr.LAST)
        else:
            for _ in range(PATHS):
                peer.take_served_path() if release == "serve" else peer.take_path()
                peer.say(1 if release == "serve" else Stderr.LAST)
                peer.nars.clear()
        peer.answer(peer.r.u64())

    # The first copy also loads modules; the second one counts.
    for _ in range(2):
        sending = send(release, [b"x"], act)
        sending.store.infos *= PATHS
        tracemalloc.start()
        try:
            sending.run()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        sending.ask()
    assert peak < MOST_BYTES
