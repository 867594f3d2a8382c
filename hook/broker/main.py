"""The executable that the shim and systemd start: `nix-ferry-broker DIRECTORY [READY_FD STANDING]`.

Writes a byte to READY_FD once a broker for those who stand at STANDING listens in DIRECTORY, this one or another;
without it, tells systemd.  Whoever started it, it has the attributes of a process that nobody has said anything about,
and goes on when they have ended.
"""

import json
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from hook.broker import unit
from hook.broker.attributes import allow_many_descriptors, become_neutral, return_large_blocks
from hook.broker.identity import IDENTITY, installed
from hook.broker.standing import same_namespaces, standing_of

if TYPE_CHECKING:
    from hook.broker.server import Broker

IDLE_ELSEWHERE_S = 60.0
"""The same in namespaces that are not those of the first process: who made them may soon want to be rid of them."""


def main() -> int:
    """Serve hooks until there is nothing to do for a while."""
    directory, *started = sys.argv[1:]
    standing = standing_of(0)
    if standing is None or (started and started[1] != standing):
        # We could not be brought to where the hooks stand that we were to serve.
        return 1
    ready_fd = int(started[0]) if started else None
    # What its unit says of a service holds.
    if ready_fd is not None:
        become_neutral()
        if unit.has_started(directory, standing):
            _say_ready(ready_fd)
            return 0
    allow_many_descriptors()
    return_large_blocks()
    return _serve(directory, standing, ready_fd)


def _serve(directory: str, standing: str, ready_fd: int | None) -> int:
    # Not before: where systemd has started another process, this one needs none of them.
    from hook.broker.conversation import serve
    from hook.broker.log import log, open_log, rotate_log
    from hook.broker.overview import overview
    from hook.broker.server import IDLE_EXIT_S, Broker
    from hook.session.hub import new_hub

    open_log(directory)
    # Nix waits for the answer of one session while others work: Python's 5 ms would be most of that wait.
    sys.setswitchinterval(0.0005)
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

    idle_exit_s = IDLE_ELSEWHERE_S if same_namespaces(os.getpid(), 1) is False else IDLE_EXIT_S
    broker = Broker(
        directory,
        standing,
        lambda caller: serve(caller, hub),
        tidy,
        report,
        idle_exit_s=idle_exit_s,
        worked=worked,
    )
    listening = broker.listen()
    _say_ready(ready_fd)
    if listening:
        log(f"listening, until {idle_exit_s:.0f} s without a build")
        # Not before: the hook that has started us waits.
        threading.Thread(target=_load, args=(broker,), daemon=True).start()
        broker.run()
        hub.pool.close()
        hub.databases.close()
        hub.ledger.flush(directory)
        log("leaving: nothing to do")
        broker.close()
    return 0


def _load(broker: "Broker") -> None:
    """Become independent of what is installed; make room if that was changed before we were."""
    from hook.broker.log import log
    from hook.errors import StockOnly
    from hook.session.loading import load

    try:
        load(lasting=True)
        if installed() == IDENTITY:
            log("loaded")
            return
        log("making room: what is installed has changed meanwhile")
    except StockOnly as error:
        log(f"making room: {error}")
    broker.retire()


def _say_ready(ready_fd: int | None) -> None:
    if ready_fd is None:
        unit.say_ready()
        return
    # The hook that started us may be gone; others will come.
    with suppress(BrokenPipeError):
        os.write(ready_fd, b"1")
    os.close(ready_fd)


if __name__ == "__main__":
    sys.exit(main())
