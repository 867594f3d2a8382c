"""The executable that the shim starts: `nix-ferry-broker DIRECTORY READY_FD`.

Writes a byte to READY_FD once a broker listens in DIRECTORY, this one or another.
"""

import json
import os
import resource
import sys
from contextlib import suppress

from hook.broker import Broker
from hook.conversation import serve
from hook.hub import new_hub
from hook.journal import log, open_log, rotate_log
from hook.overview import overview


def main() -> int:
    """Serve hooks until there is nothing to do for a while."""
    directory, ready_fd = sys.argv[1], int(sys.argv[2])
    open_log(directory)
    # Nix waits for the answer of one session while others work: Python's 5 ms would be most of that wait.
    sys.setswitchinterval(0.0005)
    _allow_many_descriptors()
    hub = new_hub(lasting=True)

    def tidy() -> None:
        hub.pool.tidy()
        hub.databases.tidy()
        if hub.sharing is not None:
            hub.sharing.tidy()
        hub.ledger.flush(directory)
        rotate_log(directory)

    def report() -> bytes:
        # Whoever asks may read the record next.
        hub.ledger.flush(directory)
        return json.dumps(overview(hub)).encode()

    def worked(address: str) -> None:
        hub.health.forgive(address)
        # Builds may wait for it.
        hub.queue.freed()

    broker = Broker(directory, lambda caller: serve(caller, hub), tidy, report, worked=worked)
    listening = broker.listen()
    # The hook that started us may be gone; others will come.
    with suppress(BrokenPipeError):
        os.write(ready_fd, b"1")
    os.close(ready_fd)
    if listening:
        log("listening")
        broker.run()
        hub.pool.close()
        hub.databases.close()
        hub.ledger.flush(directory)
        log("leaving: nothing to do")
        broker.close()
    return 0


def _allow_many_descriptors() -> None:
    """A build needs about a dozen; the usual limit of 1024 is meant for one process a build."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    sys.exit(main())
