"""Downloads from peers that send what a test wants: in what order paths come, and what if one of them does not."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hook.errors import MachineError, StoreError
from hook.front.log import Log
from hook.protocol import serve
from hook.protocol.activity import Verbosity
from hook.protocol.pipeline import Answer
from hook.store.nar import Dumper
from hook.transfer.copier import NARS_AHEAD, Copier, LocalEnd
from hook.transfer.meter import Meter
from hook.values.info import PathInfo
from tests import oracles
from tests.transfer.peer import Peer


def path_of(number: int) -> str:
    return f"/nix/store/{number:032}-file"


class Store:
    """Takes in what comes, and remembers what it was asked; `valid` are paths that are there already."""

    def __init__(self, root: Path, valid: Sequence[str] = ()) -> None:
        self.root = root
        self.valid = valid
        self.prepared: list[str] = []

    def real_path(self, path: str) -> str:
        return str(self.root / os.path.basename(path))

    def prepare(self, path: str) -> str | None:
        self.prepared.append(path)
        return None if path in self.valid else self.real_path(path)

    def restore_options(self) -> dict[str, Any]:
        return {"max_depth": None, "fsync": False, "kept_xattrs": []}

    def check_import(self, info: PathInfo, nar_hash: bytes, nar_size: int) -> None:
        if (nar_hash, nar_size) != (info.nar_hash, info.nar_size):
            raise StoreError("hash mismatch")


class Receiving:
    """Files that a peer has, `sent` as other bytes if given, fetched into an empty store."""

    def __init__(self, root: Path, contents: Sequence[bytes], sent: dict[int, bytes], valid: Sequence[str]) -> None:
        self.store = Store(root, valid)
        self.meter = Meter()
        self.asked: list[str] = []
        self.infos = []
        nars = {}
        for number, content in enumerate(contents):
            file = root / "original"
            file.write_bytes(content)
            with Dumper(str(file)) as dumper:
                while dumper.read_into(bytearray(1 << 20)):
                    pass
                self.infos.append(PathInfo(path_of(number), None, dumper.digest(), dumper.size, ()))
            nars[path_of(number)] = sent.get(number, oracles.nar(oracles.File(content)))
            file.unlink()

        def act(peer: Peer) -> None:
            peer.shake_hands("serve")
            # Whoever was sent something else hangs up.
            with suppress(BrokenPipeError):
                self._serve(peer, nars)

        self.peer = Peer(act)
        self.client = serve.ServeClient(self.peer.stream)
        self.imported: list[str] | None = None

    def _serve(self, peer: Peer, nars: dict[str, bytes]) -> None:
        while peer.r.u64() == serve.Command.DUMP_STORE_PATH:
            self.asked.append(peer.r.text())
            peer.send(nars[self.asked[-1]])

    def run(self, ahead: Sequence[str] = ()) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            remote = cast(Any, SimpleNamespace(client=self.client, stream=self.peer.stream, name="peer"))
            here = LocalEnd(cast(Any, self.store), cast(Any, None), Log(null, Verbosity.ERROR), self.meter, (2, 34))
            asked: dict[str, Answer[None]] = {path: self.client.nar_from_path(path) for path in ahead}
            self.imported = [info.path for info in Copier(remote, here).download(self.infos, asked)]
        finally:
            os.close(null)

    @property
    def there(self) -> list[str]:
        """What lies in the store."""
        return sorted(f"/nix/store/{file.name}" for file in self.store.root.iterdir())


Receive = Callable[..., Receiving]


@pytest.fixture
def receive(tmp_path: Path) -> Iterator[Receive]:
    made: list[Receiving] = []

    def start(contents: Sequence[bytes], sent: dict[int, bytes] | None = None, valid: Sequence[str] = ()) -> Receiving:
        made.append(Receiving(tmp_path, contents, sent or {}, valid))
        return made[-1]

    yield start
    for receiving in made:
        receiving.peer.end()


FILES = [b"x" * size for size in (0, 1, 3000, 300_000)]
PATHS = [path_of(number) for number in range(len(FILES))]


def test_all_paths_arrive_in_their_order_and_become_valid_together(receive: Receive) -> None:
    """Each one's place was made before anything came."""
    receiving = receive(FILES)
    receiving.run()
    assert receiving.store.prepared == PATHS
    assert receiving.asked == PATHS
    assert receiving.imported == PATHS
    assert receiving.meter.copied_bytes == sum(info.nar_size for info in receiving.infos)
    assert [Path(receiving.store.real_path(path)).read_bytes() for path in PATHS] == FILES


def test_what_is_valid_already_is_neither_fetched_nor_registered(receive: Receive) -> None:
    """Somebody else was faster."""
    receiving = receive(FILES, valid=PATHS[1:3])
    receiving.run()
    rest = [PATHS[0], PATHS[3]]
    assert (receiving.asked, receiving.there, receiving.imported) == (rest, rest, rest)


def test_what_was_asked_for_is_not_asked_again(receive: Receive) -> None:
    """The answer is on its way, and would be taken for another one."""
    receiving = receive(FILES[:1])
    receiving.run(ahead=PATHS[:1])
    assert (receiving.asked, receiving.imported) == (PATHS[:1], PATHS[:1])


def test_so_many_are_asked_for_ahead(receive: Receive) -> None:
    """Enough to fill the link, not so many that requests fill the pipe."""
    receiving = receive([b"x" * 100_000] * (NARS_AHEAD * 3))
    receiving.run()
    assert receiving.asked == [info.path for info in receiving.infos]


BAD = {
    "rubbish": (b"x" * 400, "it sent no valid NAR: .*doesn't look like a Nix archive"),
    "its middle": (oracles.nar(oracles.File(b"x" * 3000)).replace(b"contents", b"kontents"), "it sent no valid NAR: "),
    "another file": (oracles.nar(oracles.File(b"y" * 3000)), "what it sent is refused: hash mismatch"),
    "more": (oracles.nar(oracles.File(b"x" * 9000)), "is longer than the 3112 bytes it was declared as"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_machine_that_sends_something_else_is_at_fault(receive: Receive, kind: str) -> None:
    """And another one may do better; nothing becomes valid, not even what came before."""
    sent, message = BAD[kind]
    receiving = receive(FILES, {2: sent})
    with pytest.raises(MachineError, match=message):
        receiving.run()
    assert receiving.imported is None


def test_a_place_that_cannot_be_written_to_is_our_own_fault(receive: Receive) -> None:
    """No other machine could do better."""
    receiving = receive(FILES[:1])
    receiving.store.root = receiving.store.root / "nowhere"
    with pytest.raises(StoreError, match=f"cannot import '{PATHS[0]}': No such file or directory"):
        receiving.run()
    assert receiving.imported is None
