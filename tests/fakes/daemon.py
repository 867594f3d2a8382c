"""A scripted Nix daemon on standard input and output: `python -m tests.fakes.daemon BEHAVIOUR --stdio`.

Builds nothing: every output is a file that holds its own path.  BEHAVIOUR names what goes wrong, and when; `ok` means
nothing does.  Each behaviour is a method or a branch below, and has a test in test_session.py.
"""

import hashlib
import os
import sys
import time
from typing import NoReturn

from hook.protocol.handshake import CLIENT_MAGIC, SERVER_MAGIC
from hook.protocol.wire import Reader, Writer
from hook.protocol.worker import Op, Stderr
from tests import oracles

NOBODY_HAS = "/nix/store/00000000000000000000000000000008-nobody-has"


class Daemon:
    """Serves one connection."""

    def __init__(self, behaviour: str) -> None:
        self.behaviour = behaviour
        self.r = Reader(self)
        self.w = Writer()
        self.valid: set[str] = set()

    def read(self, size: int) -> bytes:
        data = sys.stdin.buffer.read(size)
        if len(data) < size:
            sys.exit(0)
        return data

    def flush(self) -> None:
        sys.stdout.buffer.write(self.w.take())
        sys.stdout.buffer.flush()

    def die(self, why: str) -> NoReturn:
        self.flush()
        print(why, file=sys.stderr, flush=True)
        os._exit(1)

    def serve(self) -> None:
        if self.behaviour == "no-nix":
            self.die("bash: line 1: nix-daemon: command not found")
        if self.behaviour == "noise":
            self.w.raw(b"Welcome to the builder!\n")
            self.flush()
        if self.behaviour == "silent":
            time.sleep(60)
        self.shake_hands()
        while True:
            op = Op(self.r.u64())
            if self.behaviour == f"die-{op.name.lower()}":
                self.die("Connection reset by peer")
            if self.behaviour == f"refuse-{op.name.lower()}":
                self.error("not today")
                self.flush()
            getattr(self, op.name.lower())()
            self.flush()

    def error(self, message: str) -> None:
        self.w.u64(Stderr.ERROR)
        self.w.string("Error")
        self.w.u64(0)
        self.w.string("Error")
        self.w.string(message)
        self.w.u64(0)
        self.w.u64(0)

    def refused(self, op: Op) -> bool:
        return self.behaviour == f"refuse-{op.name.lower()}"

    def shake_hands(self) -> None:
        assert self.r.u64() == CLIENT_MAGIC
        self.w.u64(SERVER_MAGIC)
        self.w.u64(0x126)
        self.flush()
        self.r.u64()
        self.r.texts()
        self.r.u64()
        self.r.u64()
        self.w.strings([])
        self.w.string("2.34.8")
        self.w.u64(2 if self.behaviour == "untrusting" else 1)
        self.w.u64(Stderr.LAST)
        self.flush()

    def set_options(self) -> None:
        for _ in range(12):
            self.r.u64()
        options = {self.r.text(): self.r.text() for _ in range(self.r.u64())}
        print(f"options: {options}", file=sys.stderr)
        self.w.u64(Stderr.LAST)

    def query_valid_paths(self) -> None:
        wanted = self.r.texts()
        self.r.flag()
        self.w.u64(Stderr.LAST)
        self.w.strings(sorted(self.valid & set(wanted)))

    def add_multiple_to_store(self) -> None:
        self.r.flag()
        self.r.flag()
        while size := self.r.u64():
            self.read(size)
        if not self.refused(Op.ADD_MULTIPLE_TO_STORE):
            self.w.u64(Stderr.LAST)

    def build_derivation(self) -> None:
        self.r.text()
        for _ in range(self.r.u64()):
            _, path = self.r.text(), self.r.text()
            self.valid.add(path)
            self.r.text()
            self.r.text()
        self.r.texts()
        self.r.text()
        self.r.string()
        for _ in range(self.r.u64()):
            self.r.string()
        for _ in range(self.r.u64()):
            self.r.string()
            self.r.string()
        self.r.u64()
        if self.refused(Op.BUILD_DERIVATION):
            return
        self.w.u64(Stderr.START_ACTIVITY)
        for value in (1, 3, 105):
            self.w.u64(value)
        self.w.string("building")
        self.w.u64(0)
        self.w.u64(0)
        self.w.u64(Stderr.RESULT)
        for value in (1, 101, 1, 1):
            self.w.u64(value)
        self.w.string("a line of the log")
        self.w.u64(Stderr.STOP_ACTIVITY)
        self.w.u64(1)
        self.w.u64(Stderr.LAST)
        failed = self.behaviour == "build-fails"
        self.w.u64(3 if failed else 0)
        self.w.string("builder failed with exit code 3" if failed else "")
        for _ in range(4 + 2 + 1):
            self.w.u64(0)

    def nar(self, path: str) -> bytes:
        return oracles.nar(oracles.File(path.encode()))

    def query_path_info(self) -> None:
        path = self.r.text()
        self.w.u64(Stderr.LAST)
        if self.behaviour == "output-missing":
            self.w.u64(0)
            return
        nar = self.nar(path)
        self.w.u64(1)
        self.w.string("/nix/store/00000000000000000000000000000009-elsewhere.drv")
        self.w.string(hashlib.sha256(b"other" if self.behaviour == "wrong-hash" else nar).hexdigest())
        self.w.strings([NOBODY_HAS] if self.behaviour == "wild-reference" else [])
        self.w.u64(1_000_000)
        self.w.u64(len(nar) - 8 if self.behaviour == "endless" else len(nar))
        self.w.u64(0)
        self.w.strings(["key-1:c2ln"])
        self.w.string("")

    def nar_from_path(self) -> None:
        nar = self.nar(self.r.text())
        self.w.u64(Stderr.LAST)
        match self.behaviour:
            case "bad-nar":
                self.w.raw(nar.replace(b"regular", b"fifo\0\0\0"))
            case "half-nar":
                self.w.raw(nar[:-16])
                self.die("Connection reset by peer")
            case _:
                self.w.raw(nar)


if __name__ == "__main__":
    Daemon(sys.argv[1]).serve()
