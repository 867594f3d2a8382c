"""How a connection to a machine is made: over one ssh with others or alone, handshaken, and to no store of ours.

What is made without certainty about where ssh leads is known to nobody else.  Tested in test_connections.py.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from hook.errors import MachineError
from hook.front.log import Log
from hook.machines.identity import Destination
from hook.remote.child import time_to_get_ready
from hook.remote.connection import Remote
from hook.remote.diagnosis import blames_sharing
from hook.remote.pool import Pool
from hook.remote.routes import Route
from hook.remote.watch import Deadline

if TYPE_CHECKING:
    from hook.remote.configurations import Configuration
    from hook.remote.sharing import Seat, Sharing

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Opening:
    """All that decides how a connection to the machine `name` is made, and which store it must not lead to."""

    pool: Pool
    sharing: "Sharing | None"
    route: Route
    scheme: str
    name: str
    store_dir: str
    state_dir: str
    private_dir: str
    longest_s: float
    jobs: int

    def open(
        self,
        destination: Destination | None,
        configuration: "Configuration | None",
        pause: Callable[[float], object],
        meanwhile: Callable[[], Value],
        log: Log | None = None,
        hangup_fd: int | None = None,
    ) -> tuple[Remote, Value]:
        """A handshaken connection, and what `meanwhile` returns, which is called while ssh logs in, once or twice.

        It is of `destination` if `configuration` speaks of the moment at which it was begun; otherwise nobody else
        knows or shares it.  `pause` does nothing for as many seconds.  MachineError, after which nothing depends on a
        shared connection that may be dead.
        """
        seat = self._seat(destination, configuration)
        deadline = time_to_get_ready()
        try:
            with nullcontext() if seat is None else seat.opening(pause, deadline):
                return self._shake_hands(destination, configuration, seat, deadline, meanwhile, log, hangup_fd)
        except MachineError as error:
            if self.sharing is not None and destination is not None:
                self.sharing.renew(destination)
            if seat is None or not blames_sharing(error.one_line):
                raise
            return self._shake_hands(destination, configuration, None, deadline, meanwhile, log, hangup_fd)

    def again(self, destination: Destination, configuration: "Configuration | None") -> Remote:
        """Another connection to the same `destination`, for nobody yet; MachineError if there is none to be had."""
        remote, _ = self.open(destination, configuration, time.sleep, lambda: None)
        if remote.destination is None:
            remote.close()
            raise MachineError("ssh may lead elsewhere by now")
        remote.detach()
        return remote

    def _seat(self, destination: Destination | None, configuration: "Configuration | None") -> "Seat | None":
        """Room on a shared connection, if this is one of ssh that leads to `destination` and there may be others."""
        if self.sharing is None or configuration is None or configuration.options is None or destination is None:
            return None
        if not configuration.speaks_of(time.monotonic()):
            return None
        return self.sharing.join(destination, configuration.options, self.private_dir)

    def _shake_hands(
        self,
        destination: Destination | None,
        configuration: "Configuration | None",
        seat: "Seat | None",
        deadline: Deadline,
        meanwhile: Callable[[], Value],
        log: Log | None,
        hangup_fd: int | None,
    ) -> tuple[Remote, Value]:
        if configuration is not None and not configuration.speaks_of(time.monotonic()):
            destination = None
            if seat is not None:
                # It has waited for somebody else's login.  Where that is gone, ssh makes a connection of its own.
                seat.leave()
                seat = None
        known = None if destination is None else self.pool.known(destination)
        with ExitStack() as held:
            remote = Remote(self.route, self.scheme, self.name, seat, known, self.longest_s, self.jobs)
            held.callback(remote.close)
            remote.destination = destination
            remote.stream.watch = deadline
            remote.opening = self
            if log is not None:
                remote.attach(log, hangup_fd)
            value = meanwhile()
            remote.shake_hands()
            from hook.remote.ownstore import refuse_own

            refuse_own(remote, self.store_dir, self.state_dir)
            remote.be_ready()
            held.pop_all()
            return remote, value
