"""What goes wrong on a connection, whatever is asked: a server that dies, hangs, floods, dribbles, waits or refuses.

It shakes hands as some release of Nix and hands each operation on.
"""

import os
import select
import sys
from pathlib import Path
from typing import IO, NoReturn

from hook.protocol.handshake import CLIENT_MAGIC, OUTPUTS_AS_PATHS, SERVER_MAGIC
from hook.protocol.wire import Reader, Writer
from hook.protocol.worker import Op, Stderr

RELEASES = {
    "nix-2.3": (0x115, ""),
    "nix-2.8": (0x122, "2.8.0"),
    "nix-2.35": (0x126, "2.35.0"),
    "nix-2.34": (0x126, "2.34.8"),
}
NEWS_OF_NOTHING = b"".join(word.to_bytes(8, "little") for word in (Stderr.RESULT, 99, 105, 0))


class Server:
    """Serves one connection; a subclass has a method for each operation, of its name."""

    def __init__(self, behaviour: str) -> None:
        self.behaviour = frozenset(behaviour.split(","))
        release = next((name for name in RELEASES if name in self.behaviour), "nix-2.34")
        self.version, self.nix_version = RELEASES[release]
        self.features: set[str] = set()
        self.r = Reader(self)
        self.w = Writer()
        self.expected: set[str] = set()
        # A pipe by which a test sees when we hang, and when we end.
        self.life = open(os.environ["LIFE"], "w") if "LIFE" in os.environ else None  # noqa: SIM115

    def read(self, size: int) -> bytes:
        data = sys.stdin.buffer.read(size)
        if len(data) < size:
            sys.exit(0)
        return data

    def peek(self) -> bytes:
        return b""

    def flush(self) -> None:
        sys.stdout.buffer.write(self.w.take())
        sys.stdout.buffer.flush()

    def die(self, why: str) -> NoReturn:
        self.flush()
        print(why, file=sys.stderr, flush=True)
        os._exit(1)

    def hang(self) -> NoReturn:
        """Answer nothing more and read nothing more; but, as the real daemon, end with the connection."""
        self.flush()
        self.say("hanging")
        poll = select.poll()
        poll.register(0, 0)
        poll.poll()
        os._exit(1)

    def flood(self, file: IO[bytes], data: bytes) -> NoReturn:
        """Say the same for as long as somebody listens."""
        try:
            while True:
                file.write(data)
                file.flush()
        finally:
            os._exit(1)

    def dribble(self) -> NoReturn:
        """Say a few bytes of nothing now and then, and never what was asked."""
        self.say("hanging")
        while not select.select([0], [], [], 0.02)[0]:
            self.w.raw(NEWS_OF_NOTHING)
            self.flush()
        os._exit(1)

    def wait_at_gate(self) -> None:
        """Answer when the test has opened the pipe GATE for writing."""
        self.say("waiting")
        with open(os.environ["GATE"]) as gate:
            gate.read()

    def say(self, what: str) -> None:
        if self.life is not None:
            print(what, file=self.life, flush=True)

    def log_in(self) -> None:
        """What happens before the protocol begins."""
        if "no-nix" in self.behaviour:
            self.die("bash: line 1: nix-daemon: command not found")
        if "verbose" in self.behaviour:
            print("debug1: as ssh", file=sys.stderr, flush=True)
        if "noise" in self.behaviour:
            self.w.raw(b"Welcome to the builder!\n")
            self.flush()
        if "ends" in self.behaviour:
            sys.exit(0)
        if "silent" in self.behaviour:
            self.hang()
        if "murmurs" in self.behaviour:
            self.flood(sys.stderr.buffer, b"soon\n" * 1000)

    def serve(self) -> None:
        self.log_in()
        self.shake_hands()
        while True:
            op = Op(self.r.u64())
            with open(os.environ.get("OPS", os.devnull), "a") as ops:
                print(op.name.lower(), file=ops)
            if f"die-{op.name.lower()}" in self.behaviour:
                self.die("Connection reset by peer")
            if f"hang-{op.name.lower()}" in self.behaviour:
                self.hang()
            if f"rant-{op.name.lower()}" in self.behaviour:
                self.say("hanging")
                self.flood(sys.stdout.buffer, NEWS_OF_NOTHING * 1000)
            if f"dribble-{op.name.lower()}" in self.behaviour:
                self.dribble()
            if f"gated-{op.name.lower()}" in self.behaviour:
                self.wait_at_gate()
            if self.refused(op):
                self.error("not today")
                self.flush()
            getattr(self, op.name.lower())()
            if f"gate-{op.name.lower()}" in self.behaviour:
                Path(os.environ["GATE"]).read_text()
            if f"expect-more-{op.name.lower()}" in self.behaviour - self.expected:
                self.expected.add(f"expect-more-{op.name.lower()}")
                # Until the next request is there, this one gets no answer.
                sys.stdin.buffer.peek(1)
            self.flush()

    def error(self, message: str) -> None:
        self.w.u64(Stderr.ERROR)
        if self.version < 0x11A:
            self.w.string(message)
            self.w.u64(1)
            return
        self.w.string("Error")
        self.w.u64(0)
        self.w.string("Error")
        self.w.string(message)
        self.w.u64(0)
        self.w.u64(0)

    def refused(self, op: Op) -> bool:
        return f"refuse-{op.name.lower()}" in self.behaviour

    def shake_hands(self) -> None:
        with open(os.environ.get("CONNECTIONS", os.devnull), "a") as connections:
            print(os.getpid(), file=connections)
        if self.r.u64() != CLIENT_MAGIC:
            self.die("error: protocol mismatch")
        self.w.u64(SERVER_MAGIC)
        self.w.u64(self.version)
        self.flush()
        self.r.u64()
        if self.version >= 0x126:
            offered = {OUTPUTS_AS_PATHS} if "nix-2.35" in self.behaviour else set()
            self.features = offered & set(self.r.texts())
            self.w.strings(sorted(offered))
        self.r.u64()
        self.r.u64()
        if self.version >= 0x121:
            self.w.string(self.nix_version)
        if self.version >= 0x123:
            self.w.u64(2 if "untrusting" in self.behaviour else 1)
        self.w.u64(Stderr.LAST)
        self.flush()
