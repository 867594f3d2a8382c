"""A broker in this process, and shims that connect to it."""

import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from hook.broker.identity import IDENTITY
from hook.broker.server import Broker
from hook.front.caller import Caller, Word
from tests.standing import broker_socket, standing

NOBODY = 65534
TIMEOUT_S = 30
SOON_S = 0.01
LEAK_BYTES = 512
"""The least that one hook could leave behind: an object and what refers to it."""

READY = b"h\0\0\0\0"
SERVED = b"k\4\0\0\0keptx\1\0\0\0\7"
"""What a quick session says."""

REPORT = b"all is well"
TOLD = b"\x0b\0\0\0all is well"

Serve = Callable[[Caller], int]


class Shim:
    """The other end of a conversation, with pipes as Nix would make them."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def greet(self, identity: str = IDENTITY, *environ: str, form: str = "2") -> None:
        words = [identity, form, "3", str(os.getpid()), *environ]
        self.send_words("".join(f"{word}\0" for word in words).encode())

    def send_words(self, data: bytes) -> None:
        self.socket.sendall(struct.pack("<8sI", b"nixferry", len(data)) + data)

    def hand_over(self, count: int = 3) -> None:
        with open(os.devnull, "rb") as null:
            socket.send_fds(self.socket, [b"\0"], [null.fileno()] * count)

    def rest(self) -> bytes:
        """Everything said until the broker hangs up."""
        data = b""
        try:
            while piece := self.socket.recv(100):
                data += piece
        except ConnectionResetError:
            pass
        return data

    def converse(self, *environ: str) -> bytes:
        """A whole conversation; returns what was said after the first word."""
        self.greet(IDENTITY, *environ)
        self.begin()
        return self.rest()

    def begin(self) -> None:
        """Hear that we are served, and hand everything over."""
        assert self.socket.recv(100) == READY
        self.hand_over()


class Running:
    """A broker at work; `ticks` counts how often it tidied up."""

    def __init__(self, directory: Path, serve: Serve, idle_exit_s: float = 3600.0) -> None:
        self.directory = directory
        self.ticks = threading.Semaphore(0)
        self.tidy: Callable[[], object] = lambda: None
        self.worked: list[str] = []
        self.broker = Broker(
            str(directory),
            standing(),
            serve,
            self._tick,
            lambda: REPORT,
            idle_exit_s=idle_exit_s,
            housekeeping_s=SOON_S,
            worked=self.worked.append,
        )
        assert self.broker.listen()
        self._thread = threading.Thread(target=self.broker.run)

    def start(self) -> Self:
        self._thread.start()
        return self

    def shim(self) -> Shim:
        return Shim(str(broker_socket(self.directory)))

    def join(self) -> None:
        """Wait for its end, which must come by itself."""
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.broker.retire()
        if self._thread.ident is None:
            self.start()
        self.join()

    def wait_for_ticks(self) -> None:
        """Until it has tidied up three times from now on."""
        while self.ticks.acquire(blocking=False):
            pass
        for _ in range(3):
            assert self.ticks.acquire(timeout=TIMEOUT_S)

    def _tick(self) -> None:
        self.ticks.release()
        self.tidy()


class Gate:
    """A session that goes on when the test says so."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def serve(self, caller: Caller) -> int:
        self.entered.release()
        assert self.open.wait(TIMEOUT_S)
        return 5


def quick(caller: Caller) -> int:
    """A session that says something of every kind of length."""
    caller.tell(Word.KEEP, b"kept")
    return int(caller.environ.get("STATUS", "7"))


def ask(running: Running, question: bytes) -> Shim:
    """Somebody who has asked, and has not heard anything yet."""
    asking = running.shim()
    asking.socket.sendall(struct.pack("<8sI", b"ferryask", len(question)) + question)
    return asking
