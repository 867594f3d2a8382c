"""A narrow link: `narrow.py LISTEN HOST PORT BYTES_PER_SECOND` forwards connections to HOST and PORT.

What all of them together send there is held down to that rate; answers are not.  Says `ready` once it listens.  Runs
inside a host, with nothing but Python's standard library.
"""

import socket
import sys
import threading
import time

CHUNK_BYTES = 16 << 10
WINDOW_BYTES = 64 << 10
"""A real link takes no more on credit."""


class Link:
    """What is sent through it takes its time, whoever sends it."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = 0.0

    def carry(self, size: int) -> None:
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size / self._bytes_per_s
            wait_s = self._free_at - time.monotonic()
        time.sleep(max(0.0, wait_s))


def forward(source: socket.socket, target: socket.socket, link: Link | None) -> None:
    try:
        while data := source.recv(CHUNK_BYTES):
            if link is not None:
                link.carry(len(data))
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        # The other direction has ended, and with it the connection.
        source.close()


def main() -> None:
    listen, host, port, bytes_per_s = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    link = Link(bytes_per_s)
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW_BYTES)
        server.bind(("127.0.0.1", listen))
        server.listen()
        print("ready", flush=True)
        while True:
            near, _ = server.accept()
            far = socket.create_connection((host, port))
            for connection in (near, far):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=forward, args=(near, far, link), daemon=True).start()
            threading.Thread(target=forward, args=(far, near, None), daemon=True).start()


if __name__ == "__main__":
    main()
