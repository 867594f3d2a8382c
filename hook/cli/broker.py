"""The executable that the shim and systemd start: `nix-ferry-broker DIRECTORY [READY_FD STANDING]`.

Writes a byte to READY_FD once a broker for those who stand at STANDING listens in DIRECTORY, this one or another;
without it, tells systemd.  Whoever started it, it has the attributes of a process that nobody has said anything about,
and goes on when they have ended.
"""

import json
import os
import resource
import sys
import threading
from contextlib import suppress

from hook._native import lib
from hook.broker import IDLE_EXIT_S, Broker
from hook.cli import unit
from hook.conversation import serve
from hook.errors import StockOnly
from hook.hub import new_hub
from hook.identity import IDENTITY, installed
from hook.journal import log, open_log, rotate_log
from hook.loading import load
from hook.overview import overview
from hook.standing import same_namespaces, standing_of

IDLE_ELSEWHERE_S = 60.0
"""The same in namespaces that are not those of the first process: who made them may soon want to be rid of them."""

DESCRIPTORS = 1 << 20
"""As many as the daemon of Nix may have."""

FOR_PROGRAMS = (resource.RLIMIT_CORE, resource.RLIMIT_STACK)
"""Limits that are best left as low as they are."""


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
        lib.make_neutral()
        if unit.has_started(directory, standing):
            _say_ready(ready_fd)
            return 0
        _lift_limits()
    _allow_many_descriptors()
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


def _load(broker: Broker) -> None:
    """Become independent of what is installed; make room if that was changed before we were."""
    try:
        load()
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


def _lift_limits() -> None:
    """Have the limits of the first process, as far as that is known and permitted.

    Those of the first process are nobody's in particular, and those of a caller were meant for that caller.
    """
    for limit in (getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")):
        soft, hard = resource.getrlimit(limit)
        try:
            usual = resource.prlimit(1, limit)
        except OSError:
            usual = (soft if limit in FOR_PROGRAMS else hard, hard)
        try:
            resource.setrlimit(limit, usual)
        except (OSError, ValueError):
            resource.setrlimit(limit, (_less(usual[0], hard), hard))


def _allow_many_descriptors() -> None:
    """A build needs about a dozen."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_less(hard, DESCRIPTORS), hard))


def _less(limit: int, other: int) -> int:
    return min((limit, other), key=lambda each: float("inf") if each == resource.RLIM_INFINITY else each)


if __name__ == "__main__":
    sys.exit(main())
