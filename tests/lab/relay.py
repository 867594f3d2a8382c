"""A link that can die: `relay.py UP DOWN HOST PORT` as ssh's ProxyCommand forwards so many bytes each way, then none.

Nobody is told: both ends stay connected, as behind a firewall that has begun to drop.  It happens also at SIGUSR1, and
at once while CUT is there.
Runs inside a host, with nothing but Python's standard library.
"""

import os
import select
import signal
import socket
import sys

CHUNK_BYTES = 1 << 12
CUT = "/run/cut"


def freeze(*_: object) -> None:
    while True:
        signal.pause()


def main() -> None:
    up, down, host, port = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    signal.signal(signal.SIGUSR1, freeze)
    if os.path.exists(CUT):
        freeze()
    with socket.create_connection((host, port)) as connection:
        link = connection.fileno()
        targets, left = {0: link, link: 1}, {0: up, link: down}
        while True:
            for source in select.select(list(targets), [], [])[0]:
                data = os.read(source, CHUNK_BYTES)
                left[source] -= len(data)
                if left[source] < 0:
                    freeze()
                if not data:
                    return
                while data:
                    data = data[os.write(targets[source], data) :]


if __name__ == "__main__":
    main()
