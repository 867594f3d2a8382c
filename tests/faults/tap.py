"""Stands in the way of a session's bytes, and at a step of the session holds them until something has gone wrong.

    tap.py --stdio             in place of `nix-daemon`, to which it passes them on
    tap.py --serve --write     in place of `nix-store`
    tap.py HOST PORT           as ssh's ProxyCommand

It knows a step by bytes that pass by, on either protocol.  Whoever wants it to stop there puts a file of the step's
name into DIRECTORY, which says what to do afterwards (see `act`); the tap renames it to `STEP.reached` and
waits for `STEP.go`.  A link of ssh drops everything from SIGUSR1 on, and is reset at SIGUSR2.

Runs inside a host, with nothing but Python's standard library.
"""

import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

DIRECTORY = Path("/run/faults")
CHUNK_BYTES = 1 << 16
UP, DOWN, LOG = "up", "down", "log"
NAR_END = struct.pack("<Q8s", 1, b")")
"""What follows the content of a NAR that is one file, if its length is a multiple of eight."""

LINK_STEPS = {"connect": ((DOWN,), b"SSH-2.0-")}
NIX_STEPS = {
    "handshake": ((DOWN,), b""),
    "query": ((UP,), b"-fault-input"),
    "upload start": ((UP,), b"<upload start>"),
    "upload middle": ((UP,), b"<upload middle>"),
    "upload end": ((UP,), b"<upload end>"),
    "build": ((DOWN, LOG), b"<build runs>"),
    "log burst": ((DOWN, LOG), b"<log burst>"),
    "download start": ((DOWN,), b"<download start>"),
    "download middle": ((DOWN,), b"<download middle>"),
    "download end": ((DOWN,), b"<download end>"),
    "register": ((DOWN,), b"<download end>" + NAR_END),
}
"""Which way the bytes go by which a step is known, and what they are; the step is behind them."""


class Tap:
    """Copies `streams`, (source, target) by direction, each in a thread of its own."""

    def __init__(self, steps: dict[str, tuple[tuple[str, ...], bytes]], streams: dict[str, tuple[int, int]]) -> None:
        self._steps = steps
        self._streams = streams
        self._flowing = threading.Event()
        self._flowing.set()
        self._deaf = False

    def run(self) -> None:
        """Until nothing more comes down, or nobody is left up there."""
        threads = {each: threading.Thread(target=self._copy, args=(each,), daemon=True) for each in self._streams}
        for thread in threads.values():
            thread.start()
        for direction, thread in threads.items():
            if direction != UP:
                thread.join()

    def freeze(self, *_: object) -> None:
        self._flowing.clear()

    def _copy(self, direction: str) -> None:
        source, target = self._streams[direction]
        before = b""
        while True:
            if direction == UP and self._deaf:
                self._wait_for_hangup(None)
            data = os.read(source, CHUNK_BYTES)
            self._flowing.wait()
            if not data:
                break
            for step, (directions, marker) in self._steps.items():
                if direction not in directions or not (DIRECTORY / step).exists():
                    continue
                # It may have begun in what was read before.
                seen = before[-len(marker) + 1 :] if len(marker) > 1 else b""
                found = (seen + data).find(marker)
                if found >= 0:
                    end = found + len(marker) - len(seen)
                    write_all(target, data[:end])
                    data = data[end:]
                    self._stop_at(step)
            write_all(target, data)
            before = (before + data)[-CHUNK_BYTES:]
        if direction == UP:
            os._exit(0)

    def _stop_at(self, step: str) -> None:
        self._flowing.clear()
        reached = DIRECTORY / f"{step}.reached"
        (DIRECTORY / step).rename(reached)
        while not (DIRECTORY / f"{step}.go").exists():
            self._wait_for_hangup(0.005)
        self._act(reached.read_text())
        self._flowing.set()

    def _wait_for_hangup(self, seconds: float | None) -> None:
        """End, if what is connected to us does so within this time."""
        poll = select.poll()
        poll.register(self._streams[UP][0], 0)
        if poll.poll(None if seconds is None else seconds * 1000):
            os._exit(1)

    def _act(self, what: str) -> None:
        down = self._streams[DOWN][1]
        match what:
            case "garbage":
                write_all(down, random.Random(1).randbytes(1 << 12))
            case "oversized":
                write_all(down, struct.pack("<Q", 1 << 62) * 64)
            case "truncated":
                write_all(down, b"\1\0\0")
                os._exit(1)
            case "deaf":
                self._deaf = True


def write_all(fd: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        os._exit(1)


def link(host: str, port: int) -> None:
    with socket.create_connection((host, port)) as connection:
        fd = connection.fileno()

        def reset(*_: object) -> None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            os._exit(1)

        tap = Tap(LINK_STEPS, {UP: (0, fd), DOWN: (fd, 1)})
        signal.signal(signal.SIGUSR1, tap.freeze)
        signal.signal(signal.SIGUSR2, reset)
        tap.run()


def nix(arguments: list[str]) -> None:
    program = "nix-daemon" if arguments[0] == "--stdio" else "nix-store"
    pipe = subprocess.PIPE
    child = subprocess.Popen([program, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    streams = {UP: (0, child.stdin.fileno()), DOWN: (child.stdout.fileno(), 1), LOG: (child.stderr.fileno(), 2)}
    Tap(NIX_STEPS, streams).run()
    sys.exit(child.wait())


if __name__ == "__main__":
    if sys.argv[1].startswith("--"):
        nix(sys.argv[1:])
    else:
        link(sys.argv[1], int(sys.argv[2]))
