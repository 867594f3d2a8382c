"""Find a place for a build: a machine, one of its slots, and a connection to it.

Joins the pure decision with what it needs from the world: slot locks, what is remembered of each machine, connections.
One Dispatcher serves one conversation with Nix; what outlives it is in the Hub.
"""

import os
import select
import threading
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from hook.caller import Caller
from hook.errors import Cancelled, ConfigurationError, MachineError, NotTrusted, StockOnly
from hook.health import Health
from hook.log import Log, step
from hook.machines import Machine
from hook.pool import Pool
from hook.remote import Remote
from hook.schedule import Answer, Candidate, Decision, Request, decide, suitable
from hook.services import Services
from hook.slots import Slot
from hook.transport import REMOTE_PROGRAMS, Command, command_for
from hook.uploads import Uploads

Value = TypeVar("Value")

LOSSES_ALLOWED = 2
"""How often one build may lose a machine before that machine is out for it."""

SSH_LOOKS_AT = ("HOME", "KRB5CCNAME", "LOGNAME", "NIX_SSHOPTS", "PATH", "SSH_AUTH_SOCK", "USER")
"""The variables by which two callers may mean different connections with one command."""

HEAD_POLL_S = 0.5
"""How often the build that has waited longest looks for slots that other processes freed."""


class SlotQueue:
    """Builds that wait for a slot, in the order of their arrival.

    A freed slot wakes the first; one that cannot use it passes the news on.  Only the first looks for slots that other
    processes freed, so that a thousand waiting builds cost no more than one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[int] = deque()

    @contextmanager
    def joined(self) -> Iterator[int]:
        """Stand in the queue; yields a ticket for `wait` and `pass_on`."""
        ticket = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        with self._lock:
            self._waiting.append(ticket)
        try:
            yield ticket
        finally:
            with self._lock:
                place = self._waiting.index(ticket)
                self._waiting.remove(ticket)
                # Whoever is first now has perhaps never looked; news that reached only us must not be lost.
                if place == 0 and self._waiting:
                    os.eventfd_write(self._waiting[0], 1)
            os.close(ticket)

    def wait(self, ticket: int, caller: Caller) -> None:
        """Wait for news, or for the time to look anyway; Cancelled if the caller goes away."""
        with self._lock:
            first = self._waiting[0] == ticket
        poll = select.poll()
        poll.register(ticket, select.POLLIN)
        if caller.hangup_fd is not None:
            poll.register(caller.hangup_fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(HEAD_POLL_S * 1000 if first else None)}
        if caller.hangup_fd in ready:
            raise Cancelled("Nix has given up this build")
        if ticket in ready:
            os.eventfd_read(ticket)

    def freed(self) -> None:
        """A slot is free: wake the first."""
        with self._lock:
            if self._waiting:
                os.eventfd_write(self._waiting[0], 1)

    def pass_on(self, ticket: int) -> None:
        """The holder of `ticket` could not use what was freed: wake the next."""
        with self._lock:
            place = self._waiting.index(ticket) + 1
            if place < len(self._waiting):
                os.eventfd_write(self._waiting[place], 1)


@dataclass(frozen=True, slots=True)
class Hub:
    """What outlives one conversation.  `lasting` if there will be others to profit from it."""

    pool: Pool
    health: Health
    queue: SlotQueue
    uploads: Uploads
    lasting: bool


@dataclass(frozen=True, slots=True)
class Place:
    """A machine with one of its slots held; `release` frees the slot, harmless when done before."""

    machine: Machine
    name: str
    release: Callable[[], None]


class Dispatcher:
    """Places for the builds of one conversation."""

    def __init__(self, hub: Hub, services: Services, log: Log) -> None:
        self._hub = hub
        self._services = services
        self._log = log
        self._out: dict[Machine, str] = {}
        self._losses: dict[Machine, int] = {}

    def name(self, machine: Machine) -> str:
        """What `machine` is called in messages and lock files."""
        return machine.uri.render(self._services.host.release)

    def decide(self, request: Request, avoided: Collection[Machine] = ()) -> tuple[Decision, Place | None]:
        """Choose a machine that is not among `avoided` and take its slot, in one step for all hooks on this host."""
        candidates: list[Candidate] = []
        slots: dict[Machine, Slot | None] = {}
        with self._services.slots.selection():
            for machine in self._services.machines:
                load, obstacle = None, "avoided" if machine in avoided else self._obstacle(machine)
                if obstacle is None and suitable(request, machine) is None:
                    try:
                        slots[machine], load = self._services.slots.probe(
                            machine.uri.lock_stem(self._services.host.release), machine.max_jobs
                        )
                    except ConfigurationError as error:
                        obstacle = self._out[machine] = error.one_line
                candidates.append(Candidate(machine, load, slots.get(machine) is not None, obstacle))
            decision = self._patient(request, decide(request, self._services.host, candidates))
            for machine, slot in slots.items():
                if slot is not None and machine is not decision.machine:
                    slot.release()
            chosen = slots[decision.machine] if decision.machine else None
            if chosen is None or decision.machine is None:
                return decision, None
            chosen.touch()
            return decision, Place(decision.machine, self.name(decision.machine), self._releaser(chosen))

    def waits_for(self, request: Request, decision: Decision) -> str | None:
        """The name of a machine that lacks nothing but a free slot for this build; None if it must not wait here."""
        if decision.answer is not Answer.POSTPONE or not self._hub.lasting:
            return None
        able = [m for m in self._services.machines if suitable(request, m) is None and self._obstacle(m) is None]
        return self.name(max(able, key=lambda m: m.speed_factor)) if able else None

    def wait(self, request: Request) -> Place | None:
        """A place for an accepted build, best on a machine it has not lost; None when no machine is left for it."""
        # It was promised to Nix, which will not build it itself any more, willing or not.
        request = replace(request, am_willing=False)
        caller = self._services.caller
        with self._hub.queue.joined() as ticket:
            while True:
                decision, place = self.decide(request, self._losses)
                if place is None and self._losses:
                    decision, place = self.decide(request)
                if place is not None and place.machine.uri.scheme in REMOTE_PROGRAMS:
                    return place
                if place is not None:
                    place.release()
                    self._out[place.machine] = "is not reached by ssh"
                    continue
                if decision.answer is not Answer.POSTPONE:
                    return None
                self._hub.queue.pass_on(ticket)
                self._hub.queue.wait(ticket, caller)

    def may_accept_first(self, machine: Machine) -> bool:
        """Whether `machine` is taken to work without asking it."""
        return self._hub.lasting and self._hub.health.is_fresh(self._key(machine))

    def connect(self, place: Place, meanwhile: Callable[[], Value]) -> tuple["Remote", Value]:
        """A connection to the machine of `place`, and what `meanwhile` returns, which runs while ssh authenticates.

        MachineError: there is none to be had, and the machine is left out from now on.  Errors of `meanwhile` are
        passed on.
        """
        machine, s = place.machine, self._services
        if machine.uri.scheme not in REMOTE_PROGRAMS:
            raise StockOnly(f"machine '{place.name}' is not reached by ssh")
        try:
            command = command_for(machine, s.environ, s.private_dir, s.host.release)
            if warm := self._hub.pool.take(self._destination(command)):
                warm.attach(self._log, s.caller.hangup_fd)
                return warm, meanwhile()
            remote, value = self._connect(place, command, meanwhile)
        except ConfigurationError as error:
            self._out[machine] = error.one_line
            raise MachineError(str(error)) from None
        except MachineError as error:
            self._out[machine] = error.one_line
            self._hub.health.failed(self._key(machine), error.one_line)
            raise
        except BaseException:
            self._hub.health.abandoned(self._key(machine))
            raise
        self._hub.health.worked(self._key(machine))
        return remote, value

    def _connect(self, place: Place, command: Command, meanwhile: Callable[[], Value]) -> tuple["Remote", Value]:
        self._hub.health.trying(self._key(place.machine))
        with (
            step(self._log, f"connecting to '{place.name}'"),
            ExitStack() as held,
        ):
            remote = Remote(command, place.machine.uri.scheme, place.name)
            held.callback(remote.close)
            remote.attach(self._log, self._services.caller.hangup_fd)
            value = meanwhile()
            remote.shake_hands()
            held.pop_all()
            return remote, value

    def give_back(self, remote: Remote) -> None:
        """A connection whose build went through to the end: keep it if somebody may need it."""
        remote.detach()
        if self._hub.lasting:
            self._hub.pool.give(self._destination(remote.command), remote)
        else:
            remote.close()

    def lost(self, machine: Machine, error: MachineError) -> None:
        """`machine` went away during a build, or refused it."""
        self._hub.health.doubt(self._key(machine))
        self._losses[machine] = self._losses.get(machine, 0) + 1
        if self._losses[machine] >= LOSSES_ALLOWED or isinstance(error, NotTrusted):
            self.leave_out(machine, error.one_line)

    def leave_out(self, machine: Machine, reason: str) -> None:
        """Use `machine` no more in this conversation."""
        self._out[machine] = reason

    def _patient(self, request: Request, decision: Decision) -> Decision:
        """Nobody else can build it, and a machine that failed earlier may soon be tried again: have Nix ask later.

        A machine that failed in this very conversation is no reason to wait: Nix is then told, as by stock.
        """
        if decision.answer is Answer.DECLINE and not self._services.host.could_build(request):
            for machine in self._services.machines:
                if suitable(request, machine) is None and machine not in self._out:
                    return replace(decision, answer=Answer.POSTPONE)
        return decision

    def _obstacle(self, machine: Machine) -> str | None:
        return self._out.get(machine) or self._hub.health.obstacle(self._key(machine))

    def _releaser(self, slot: Slot) -> Callable[[], None]:
        def release() -> None:
            if slot.release():
                self._hub.queue.freed()

        return release

    def _key(self, machine: Machine) -> Hashable:
        """Whose health this is: the same line means another machine for another user, with other keys."""
        return machine.uri.text, machine.ssh_key, machine.public_host_key

    def _destination(self, command: Command) -> Hashable:
        """Everything that decides where a connection leads, as whom, and what was set on it."""
        environ = tuple(command.environ.get(name) for name in SSH_LOOKS_AT)
        return command.argv, environ, self._services.limits
