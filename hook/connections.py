"""Connections to machines for one conversation with Nix: warm ones from the pool, or made now.

Knows what makes two connections the same, and which must not be used again.  What a failure means for a machine is not
decided here.  Tested in test_dispatch.py.
"""

from collections.abc import Callable, Hashable
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, TypeVar

from hook.errors import MachineError
from hook.hub import Hub
from hook.log import Log, step
from hook.machines import Machine
from hook.protocol.activity import Verbosity
from hook.remote import Remote
from hook.routes import Route, Routes, destination_of
from hook.services import Services
from hook.stream import Deadline
from hook.transport import Command, time_to_get_ready
from hook.trouble import blames_sharing

if TYPE_CHECKING:
    from hook.sharing import Seat

Value = TypeVar("Value")


class Connections:
    """Those of one conversation; `close` ends what was not given back."""

    def __init__(self, hub: Hub, services: Services, log: Log) -> None:
        self._hub = hub
        self._services = services
        self._log = log
        self._routes = Routes(
            services.settings,
            services.host.release,
            services.environ,
            services.private_dir,
            services.caller.parent_pid,
            services.config.connect_timeout_s,
        )
        self._destinations: dict[Machine, Hashable] = {}
        self._remotes: set[Remote] = set()

    def close(self) -> None:
        """Close every connection that was not given back."""
        for remote in self._remotes:
            remote.close()

    def take(self, machine: Machine) -> Remote | None:
        """An idle one to `machine`, for `reuse`; ConfigurationError if there is no way to it."""
        return self._hub.pool.take(self._destination(machine, self._route(machine)))

    def reuse(self, remote: Remote, meanwhile: Callable[[], Value]) -> tuple[Remote, Value]:
        """Make it this conversation's own; also returns what `meanwhile` returns, errors of which give it back."""
        self._remotes.add(remote)
        remote.attach(self._log, self._services.caller.hangup_fd)
        try:
            return remote, meanwhile()
        except BaseException:
            self.give_back(remote)
            raise

    def open(self, machine: Machine, name: str, meanwhile: Callable[[], Value]) -> tuple[Remote, Value]:
        """A handshaken connection to `machine`; `meanwhile` is called while ssh authenticates, once or twice.

        ConfigurationError, or MachineError, after which nothing depends on a shared connection that may be dead.
        """
        route = self._route(machine)
        with step(self._log, f"connecting to '{name}'"):
            seat = self._seat(self._destination(machine, route), route)
            deadline = time_to_get_ready()
            try:
                with nullcontext() if seat is None else seat.opening(self._services.caller.pause):
                    remote, value = self._shake_hands(machine, name, route, seat, deadline, meanwhile)
            except MachineError as error:
                self._renew(machine)
                if seat is None or not blames_sharing(error.one_line):
                    raise
                remote, value = self._shake_hands(machine, name, route, None, deadline, meanwhile)
        self._remotes.add(remote)
        return remote, value

    def give_back(self, remote: Remote) -> None:
        """A connection whose build went through to the end: keep it if somebody may need it."""
        remote.detach()
        self._remotes.discard(remote)
        if self._hub.lasting and not (self._services.machines_substitute and remote.client.stops_substituting):
            self._hub.pool.give(destination_of(remote.route, self._services), remote)
        else:
            remote.close()

    def doubt(self, machine: Machine, *, all_lost: bool) -> None:
        """Forget what is known of `machine`; with `all_lost` idle connections, too, are dead for all anybody knows."""
        destination = self._destinations.get(machine)
        if destination is None:
            return
        if all_lost:
            self._hub.pool.drop(destination)
            self._renew(machine)
        else:
            self._hub.pool.doubt(destination)

    def _route(self, machine: Machine) -> Route:
        return self._routes.to(machine, verbose=self._log.verbosity >= Verbosity.CHATTY)

    def _destination(self, machine: Machine, route: Route) -> Hashable:
        destination = self._destinations[machine] = destination_of(route, self._services)
        return destination

    def _shake_hands(
        self,
        machine: Machine,
        name: str,
        route: Route,
        seat: "Seat | None",
        deadline: Deadline,
        meanwhile: Callable[[], Value],
    ) -> tuple[Remote, Value]:
        with ExitStack() as held:
            known = self._hub.pool.known(self._destinations[machine])
            remote = Remote(route, machine.uri.scheme, name, seat, known)
            held.callback(remote.close)
            remote.stream.watch = deadline
            remote.attach(self._log, self._services.caller.hangup_fd)
            value = meanwhile()
            remote.shake_hands()
            from hook.ownstore import refuse_own

            refuse_own(remote, self._services.store.store_dir, self._services.store.state_dir)
            remote.be_ready()
            held.pop_all()
            return remote, value

    def _seat(self, destination: Hashable, route: Route) -> "Seat | None":
        """Room on a shared connection, if this is one of ssh and there may be others."""
        if self._hub.sharing is None or not isinstance(route, Command) or route.argv[0] != "ssh":
            return None
        return self._hub.sharing.join(destination, route, self._services.private_dir)

    def _renew(self, machine: Machine) -> None:
        """Whatever comes next must not depend on a connection that may be dead."""
        if self._hub.sharing is not None:
            self._hub.sharing.renew(self._destinations[machine])
