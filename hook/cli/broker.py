"""The executable that the shim starts: `nix-ferry-broker DIRECTORY READY_FD`.

Writes a byte to READY_FD once a broker listens in DIRECTORY, this one or another.
"""

import os
import sys

from hook.broker import Broker, log, open_log
from hook.hub import new_hub, serve


def main() -> int:
    """Serve hooks until there is nothing to do for a while."""
    directory, ready_fd = sys.argv[1], int(sys.argv[2])
    open_log(directory)
    # Nix waits for the answer of one session while others work: Python's 5 ms would be most of that wait.
    sys.setswitchinterval(0.0005)
    hub = new_hub(lasting=True)
    broker = Broker(directory, lambda caller: serve(caller, hub), hub.pool.tidy)
    listening = broker.listen()
    os.write(ready_fd, b"1")
    os.close(ready_fd)
    if listening:
        log("listening")
        broker.run()
        hub.pool.close()
        log("leaving: nothing to do")
    return 0


if __name__ == "__main__":
    sys.exit(main())
