"""A long link: `delay.py SECONDS HOST PORT` as ssh's ProxyCommand holds every byte back for SECONDS, each way.

Order and throughput stay; only time passes.  Runs inside a host, with nothing but Python's standard library.
"""

import os
import select
import socket
import sys
import time
from collections import deque

CHUNK_BYTES = 1 << 16


class Direction:
    """Bytes from one descriptor to another, some time later."""

    def __init__(self, source: int, target: int, delay_s: float) -> None:
        self.source, self.target, self.delay_s = source, target, delay_s
        self.open = True
        self.held: deque[tuple[float, bytes]] = deque()

    def take(self) -> None:
        data = os.read(self.source, CHUNK_BYTES)
        self.open = bool(data)
        self.held.append((time.monotonic() + self.delay_s, data))

    def deliver(self) -> bool:
        """Send what is due; False after the end of the stream."""
        while self.held and self.held[0][0] <= time.monotonic():
            _, data = self.held.popleft()
            if not data:
                return False
            while data:
                data = data[os.write(self.target, data) :]
        return True


def main() -> None:
    delay_s, host, port = float(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with socket.create_connection((host, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        directions = [Direction(0, connection.fileno(), delay_s), Direction(connection.fileno(), 1, delay_s)]
        while all(direction.deliver() for direction in directions):
            due = [direction.held[0][0] for direction in directions if direction.held]
            wait_s = max(0.0, min(due) - time.monotonic()) if due else None
            sources = {direction.source: direction for direction in directions if direction.open}
            for source in select.select(list(sources), [], [], wait_s)[0]:
                sources[source].take()


if __name__ == "__main__":
    main()
