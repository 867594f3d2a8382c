"""Connections to machines for one conversation with Nix: warm ones from the pool, or made now.

Knows which must not be used again, for whom one may be kept, and how another one takes its place when this conversation
is over.  What a failure means for a machine is not decided here.  Tested in test_connections.py.
"""

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hook.errors import MachineError
from hook.front.log import Log, step
from hook.machines.builders import Machine
from hook.machines.identity import Destination
from hook.protocol.activity import Verbosity
from hook.remote.child import HANDSHAKE_S, Command
from hook.remote.connection import LONGEST_S, Address, Remote
from hook.remote.opening import Opener, Opening
from hook.remote.routes import Route, Routes, is_ssh
from hook.remote.ssh import NOISE
from hook.session.hub import Hub
from hook.session.services import Services

if TYPE_CHECKING:
    from hook.remote.configurations import Configuration

LEAST_S = 2.0
"""A connection that may not grow even that old is replaced when somebody needs one."""


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
        store = services.store
        self._opener = Opener(hub.pool, hub.sharing, store.store_dir, store.state_dir, services.private_dir)
        self._begun_at = time.monotonic()
        self._destinations: dict[Machine, Destination | None] = {}
        self._only_since: dict[Machine, float] = {}
        self._remotes: set[Remote] = set()

    def close(self) -> None:
        """Close every connection that was not given back."""
        for remote in self._remotes:
            remote.close()

    def take(self, machine: Machine) -> Remote | None:
        """An idle one to `machine`, now this conversation's own; ConfigurationError if there is no way to it.

        None also where it is not certain that one leads to where ssh would lead this caller, and ssh takes more than
        a moment to say so.
        """
        route, caller = self._route(machine), self._services.caller
        destination = self._destination(machine, route, self._ask(route, caller.pause))
        if destination is None:
            return None
        remote = self._hub.pool.take(destination, self._only_since.get(machine, 0.0))
        if remote is not None:
            self._remotes.add(remote)
            remote.attach(self._log, caller.hangup_fd)
        return remote

    @contextmanager
    def begin(self, machine: Machine, name: str) -> Iterator[Opening]:
        """A connection to `machine`, to be finished in the block, and then to be told to `own`.

        ConfigurationError, or MachineError, after which nothing depends on a shared connection that may be dead.
        """
        route, caller = self._route(machine), self._services.caller
        with step(self._log, f"connecting to '{name}'"):
            configuration = self._ask(route, caller.pause)
            destination = self._destination(machine, route, configuration)
            address = Address(route, machine.uri.scheme, name, _longest_s(machine), machine.max_jobs)
            with self._opener.begin(
                address, destination, configuration, caller.pause, self._log, caller.hangup_fd
            ) as opening:
                yield opening

    def own(self, remote: Remote) -> None:
        """`remote` was made for this conversation, whose user is warned of what a machine prints."""
        self._remotes.add(remote)
        if remote.client.noise:
            self._warn(remote.name, remote.client.noise)

    def _warn(self, name: str, noise: bytes) -> None:
        from hook.protocol.handshake import TALKS, quoted

        # Perhaps it prints the time.
        if self._services.notices.first_time(f"what '{name}' prints"):
            text = f"'{name}' prints '{quoted(noise)}', which is skipped here and fails with stock Nix: {TALKS}"
            self._log.warning(text)

    def give_back(self, remote: Remote) -> None:
        """A connection whose build went through to the end: keep it if somebody may need it."""
        remote.detach()
        self._remotes.discard(remote)
        if not self._hub.lasting or (self._services.machines_substitute and remote.client.stops_substituting):
            remote.close()
            return
        if remote.destination is None and (answer := self._ask(remote.route)) and answer.speaks_of(remote.begun_at):
            remote.destination = destination_of(remote.route, self._services, answer.identity, remote.address.longest_s)
        if remote.destination is None:
            remote.close()
        else:
            self._hub.pool.give(remote.destination, remote, self._again(remote))

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

    def is_older(self, remote: Remote) -> bool:
        """Whether `remote` was there when this conversation began."""
        return remote.begun_at < self._begun_at

    def renew(self, machine: Machine, name: str) -> None:
        """From now on use no connection to `machine` that there is already, and keep none of them."""
        self._only_since[machine] = time.monotonic()
        self._hub.pool.drop_machine(name)
        # Those, too, that were made for a line by which it has another name.
        if (destination := self._destinations.get(machine)) is not None:
            self._hub.pool.drop(destination)
        self._renew(machine)

    def _route(self, machine: Machine) -> Route:
        return self._routes.to(machine, verbose=self._log.verbosity >= Verbosity.CHATTY)

    def _ask(self, route: Route, pause: Callable[[float], object] | None = None) -> "Configuration | None":
        """What ssh makes of its configuration, as far as that is known; with `pause`, after a moment if need be."""
        if self._hub.configurations is None or not isinstance(route, Command) or not is_ssh(route):
            return None
        return self._hub.configurations.look(route) if pause is None else self._hub.configurations.wait(route, pause)

    def _destination(self, machine: Machine, route: Route, configuration: "Configuration | None") -> Destination | None:
        if configuration is None and is_ssh(route):
            destination = None
        else:
            identity = configuration and configuration.identity
            destination = destination_of(route, self._services, identity, _longest_s(machine))
        self._destinations[machine] = destination
        return destination

    def _again(self, remote: Remote) -> Callable[[], Remote] | None:
        """What opens another one that leads where `remote` does, when this conversation may be over."""
        services, configurations, opener = self._services, self._hub.configurations, self._opener
        address, destination = remote.address, remote.destination
        if destination is None or address.longest_s < LEAST_S:
            return None

        def again() -> Remote:
            answer, route = None, address.route
            if configurations is not None and isinstance(route, Command) and is_ssh(route):
                answer = configurations.renew(route, HANDSHAKE_S)
                if answer is None or destination_of(route, services, answer.identity, address.longest_s) != destination:
                    raise MachineError("ssh would lead elsewhere now")
            return opener.again(address, destination, answer)

        return again

    def _renew(self, machine: Machine) -> None:
        """Whatever comes next must not depend on a connection that may be dead."""
        destination = self._destinations.get(machine)
        if self._hub.sharing is not None and destination is not None:
            self._hub.sharing.renew(destination)


def _longest_s(machine: Machine) -> float:
    """The greatest age at which a build may begin with a connection; ConfigurationError if the line has no number."""
    return min(LONGEST_S, machine.uri.number("max-connection-age", int(LONGEST_S)))


def destination_of(route: Route, services: Services, identity: Hashable, longest_s: float) -> Destination:
    """Where a connection leads, as whom, what was set on it, and whose store it is not.

    `identity` stands for what ssh makes of its configuration.  Nobody has use for one that may grow older than
    `longest_s`.
    """
    settings: tuple[tuple[str, str], ...] = ()
    if not isinstance(route, Command):
        way: str | tuple[str, ...] = route.path
        settings = tuple(services.settings.items())
    else:
        way = route.argv
        if not is_ssh(route):
            settings = tuple(route.options.others.items()) if route.options else ()
            identity = tuple(sorted((name, value) for name, value in route.environ.items() if name not in NOISE))
    substitute, state_dir = services.machines_substitute, services.store.state_dir
    return Destination(way, identity, settings, services.limits, substitute, state_dir, longest_s)
