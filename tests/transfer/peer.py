"""The other end of one connection, which answers when it suits the test."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

from hook.front.caller import write_all
from hook.protocol import serve, worker
from hook.protocol.handshake import SERVER_MAGIC
from hook.protocol.wire import Reader, Writer
from hook.protocol.worker import Stderr
from hook.remote.stream import Stream

VALID = "/nix/store/00000000000000000000000000000001-valid"


class Peer:
    """The other end of one connection, which `act` speaks for in a thread of its own."""

    def __init__(self, act: Callable[["Peer"], None]) -> None:
        self._in, to_peer = os.pipe()
        from_peer, self._out = os.pipe()
        self.r, self.w = Reader(self), Writer()
        self.nars: list[bytes] = []
        self.asks_substitute = True
        self.stream = Stream(from_peer, to_peer, None, "peer")
        self._thread = threading.Thread(target=self._run, args=(act,))
        self._thread.start()

    def _run(self, act: Callable[["Peer"], None]) -> None:
        with suppress(EOFError):
            act(self)
        os.close(self._in)
        os.close(self._out)

    def end(self) -> None:
        self.stream.close()
        self._thread.join()

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = os.read(self._in, size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def peek(self) -> bytes:
        return b""

    def say(self, *words: int | str | list[str]) -> None:
        for word in words:
            match word:
                case int():
                    self.w.u64(word)
                case str():
                    self.w.string(word)
                case list():
                    self.w.strings(word)
        write_all(self._out, self.w.take())

    def send(self, data: bytes) -> None:
        """Bytes that are no words."""
        write_all(self._out, data)

    def refuse(self) -> None:
        self.say(Stderr.ERROR, "Error", 0, "Error", "not today", 0, 0)

    # The requests

    def shake_hands(self, release: str) -> None:
        if release == "serve":
            self.read(8)
            self.say(serve.SERVER_MAGIC, 0x207)
            self.read(8)
        elif release == "2.3.7":
            self.asks_substitute = False
            self.read(8)
            self.say(SERVER_MAGIC, 0x115)
            self.read(8 + 2 * 8)
            self.say(Stderr.LAST)
        else:
            self.read(8)
            self.say(SERVER_MAGIC, 0x122)
            self.read(8 + 2 * 8)
            self.say(release, Stderr.LAST)

    def take_served_path(self) -> None:
        assert self.r.u64() == serve.Command.ADD_TO_STORE_NAR
        self.r.text(), self.r.text(), self.r.text(), self.r.texts(), self.r.u64()
        size = self.r.u64()
        self.r.flag(), self.r.texts(), self.r.text()
        self.nars.append(self.read(size))

    def take_path(self) -> None:
        assert self.r.u64() == worker.Op.ADD_TO_STORE_NAR
        self.take_path_after_op()

    def take_path_after_op(self) -> None:
        worker.read_path_info(self.r, self.r.text())
        self.r.flag(), self.r.flag()
        self.nars.append(b"".join(self.frames()))

    def pull_path(self, sizes: Iterator[int]) -> None:
        """Ask for a path in pieces of at most `sizes` bytes, saying something now and then."""
        assert self.r.u64() == worker.Op.ADD_TO_STORE_NAR
        info = worker.read_path_info(self.r, self.r.text())
        self.r.flag(), self.r.flag()
        nar = b""
        while len(nar) < info.nar_size:
            size = next(sizes)
            self.say(Stderr.NEXT, "a remark\n", Stderr.READ, size)
            piece = self.r.string()
            assert 0 < len(piece) <= size
            nar += piece
        self.nars.append(nar)
        self.say(Stderr.LAST)

    def frames(self) -> Iterator[bytes]:
        while size := self.r.u64():
            yield self.read(size)

    def answer(self, op: int) -> None:
        """Only who has lost no word asks what is understood here."""
        match op:
            case serve.Command.QUERY_VALID_PATHS:
                self.r.flag(), self.r.flag(), self.r.texts()
            case worker.Op.QUERY_VALID_PATHS:
                self.r.texts()
                if self.asks_substitute:
                    self.r.flag()
                self.say(Stderr.LAST)
        self.say([VALID])
