"""How a connection to a machine is made: over one ssh with others or alone, handshaken, and to no store of ours.

What is made without certainty about where ssh leads is known to nobody else.  Tested in test_connections.py.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hook.errors import MachineError
from hook.front.log import Log
from hook.machines.identity import Destination
from hook.remote.child import time_to_get_ready
from hook.remote.connection import Address, Link, Remote
from hook.remote.diagnosis import blames_sharing
from hook.remote.pool import Pool

if TYPE_CHECKING:
    from types import TracebackType

    from hook.remote.configurations import Configuration
    from hook.remote.sharing import Seat, Sharing


@dataclass(frozen=True, slots=True)
class Opener:
    """Makes connections for a store that has these directories: no machine must be that store itself."""

    pool: Pool
    sharing: "Sharing | None"
    store_dir: str
    state_dir: str
    private_dir: str

    def begin(
        self,
        address: Address,
        destination: Destination | None,
        configuration: "Configuration | None",
        pause: Callable[[float], object],
        log: Log | None = None,
        hangup_fd: int | None = None,
    ) -> "Opening":
        """A connection to be made in a block.

        It is of `destination` if `configuration` speaks of the moment at which it was begun; otherwise nobody else
        knows or shares it.  `pause` does nothing for as many seconds.
        """
        return Opening(self, address, destination, configuration, pause, log, hangup_fd)

    def again(self, address: Address, destination: Destination, configuration: "Configuration | None") -> Remote:
        """Another connection to the same `destination`, for nobody yet; MachineError if there is none to be had."""
        with self.begin(address, destination, configuration, time.sleep) as opening:
            remote = opening.finish()
        if remote.destination is None:
            remote.close()
            raise MachineError("ssh may lead elsewhere by now")
        remote.detach()
        return remote

    def seat(self, destination: Destination | None, configuration: "Configuration | None") -> "Seat | None":
        """Room on a shared connection, if this is one of ssh that leads to `destination` and there may be others."""
        if self.sharing is None or configuration is None or configuration.options is None or destination is None:
            return None
        if not configuration.speaks_of(time.monotonic()):
            return None
        return self.sharing.join(destination, configuration.options, self.private_dir)


class Opening:
    """A connection that is being made: in its block ssh logs in, until `finish`, which is called once.

    MachineError, from the block's beginning or from `finish`, after which nothing depends on a shared connection that
    may be dead.  Whatever ends the block before, nothing is left of it.
    """

    def __init__(
        self,
        opener: Opener,
        address: Address,
        destination: Destination | None,
        configuration: "Configuration | None",
        pause: Callable[[float], object],
        log: Log | None,
        hangup_fd: int | None,
    ) -> None:
        self._opener = opener
        self._address = address
        self._destination = destination
        self._configuration = configuration
        self._pause = pause
        self._log = log
        self._hangup_fd = hangup_fd
        self._deadline = time_to_get_ready()
        self._seat: Seat | None = None
        self._link: Link | None = None
        self._held = ExitStack()

    def __enter__(self) -> "Opening":
        self._seat = self._opener.seat(self._destination, self._configuration)
        try:
            self._begin()
        except MachineError as error:
            self._go_alone(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: "TracebackType | None"
    ) -> None:
        self._held.__exit__(kind, error, traceback)

    def finish(self) -> Remote:
        """The connection, handshaken."""
        try:
            return self._shake_hands()
        except MachineError as error:
            self._held.__exit__(type(error), error, error.__traceback__)
            self._go_alone(error)
        return self._shake_hands()

    def _begin(self) -> None:
        seat = self._seat
        self._leads_to = self._destination
        with ExitStack() as held:
            if seat is not None:
                held.enter_context(seat.opening(self._pause, self._deadline))
            if self._configuration is not None and not self._configuration.speaks_of(time.monotonic()):
                self._leads_to = None
                if seat is not None:
                    # It has waited for somebody else's login.  Where that is gone, ssh makes a connection of its own.
                    seat.leave()
                    seat = None
            self._known = None if self._leads_to is None else self._opener.pool.known(self._leads_to)
            self._link = Link(self._address, seat)
            held.callback(self._hang_up)
            self._link.stream.watch = self._deadline
            self._held = held.pop_all()

    def _go_alone(self, error: MachineError) -> None:
        """Begin once more without others, if `error` is one of sharing; otherwise raise it."""
        seat, self._seat = self._seat, None
        if self._opener.sharing is not None and self._destination is not None:
            self._opener.sharing.renew(self._destination)
        if seat is None or not blames_sharing(error.one_line):
            raise error
        self._begin()

    def _shake_hands(self) -> Remote:
        assert self._link is not None
        remote = Remote(self._link, self._known, self._leads_to, self._log, self._hangup_fd)
        from hook.remote.ownstore import refuse_own

        refuse_own(remote, self._opener.store_dir, self._opener.state_dir)
        remote.be_ready()
        self._link = None
        self._held.close()
        return remote

    def _hang_up(self) -> None:
        """End what has not become a connection; what others know of the machine may be out of date as well."""
        if self._link is not None:
            self._link.close()
            self._link = None
            if self._known is not None:
                self._known.forget()
