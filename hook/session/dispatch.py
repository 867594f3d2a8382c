"""Find a place for a build: a machine, one of its slots or a place ahead of one.

Joins the pure decision with what it needs from the world: slot locks, what is remembered of each machine, connections.
One Dispatcher serves one conversation with Nix; what outlives it is in the Hub.  Tested in
test_dispatch.py, test_waiting.py, test_lookahead.py and test_disabled.py.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TypeVar

from hook.errors import ConfigurationError, ConnectionLost, MachineError, NotTrusted, ProtocolError, Trouble
from hook.front.log import Log
from hook.front.request import Request
from hook.machines.builders import Machine
from hook.machines.disabled import Disabled
from hook.machines.identity import HealthOf, MachineInUse, QueueOf, SlotsOf, is_handled, ssh_looks_at
from hook.machines.places import Place
from hook.machines.schedule import Answer, Candidate, Decision, Verdict, decide, suitable
from hook.machines.slots import BusyError, Slot
from hook.protocol.activity import Verbosity
from hook.recent import Recent
from hook.remote.connection import Remote
from hook.session.connections import Connections
from hook.session.hub import Hub
from hook.session.promises import Promises
from hook.session.services import Services

Value = TypeVar("Value")

LOSSES_ALLOWED = 2
"""How often one build may lose a machine, or see others fail in a row with it, before that machine is out for it."""

NOT_ASKED = "not asked, since others have taken long enough"

CHOOSING_S = 10.0
"""How long an answer to Nix may wait for other hooks that choose: only one that was stopped takes that long."""

MOST_UNWELCOME = 1000
"""How many builds one conversation remembers for what a machine would refuse."""

REMINDER_S = 60.0
"""How often one Nix command is told that a machine cannot be used, or that none can."""


class Dispatcher:
    """Places for the builds of one conversation; `close` gives up whatever it still holds."""

    def __init__(self, hub: Hub, services: Services, log: Log) -> None:
        self._hub = hub
        self._services = services
        self._log = log
        self._connections = Connections(hub, services, log)
        self._disabled = Disabled(services.private_dir)
        scope = hub.configurations.scope(services.environ) if hub.configurations else None
        self._seen_by_ssh = ssh_looks_at(services.environ, scope)
        self._out: dict[Machine, str] = {}
        self._losses: dict[Machine, int] = {}
        self._probes: set[Machine] = set()
        self._places: set[Place] = set()
        self._unwelcome: Recent[tuple[str, Machine], str] = Recent(MOST_UNWELCOME)
        self.promises = Promises(hub, services, self)

    def close(self) -> None:
        """Free every slot and close every connection that was not given back, however the conversation ended."""
        self._connections.close()
        self.promises.kept()
        for place in list(self._places):
            place.release()

    def name(self, machine: Machine) -> str:
        """What `machine` is called in messages and lock files."""
        return machine.uri.render(self._services.host.release)

    def machines(self) -> list[MachineInUse]:
        """The machines of this conversation, for whoever tells of them."""
        s = self._services
        return [
            MachineInUse(
                name=self.name(machine),
                machine=machine,
                health=self.key(machine),
                at=self.at(machine),
                lock_stem=machine.uri.lock_stem(s.host.release),
                state_dir=s.store.state_dir,
                private_dir=s.private_dir,
            )
            for machine in s.machines
        ]

    def decide(
        self,
        request: Request,
        avoided: Collection[Machine] = (),
        *,
        ahead: bool = False,
        patience_s: float | None = CHOOSING_S,
    ) -> tuple[Decision, Place | None]:
        """Choose a machine that is not among `avoided` and take its slot, in one step for all hooks on this host.

        With `ahead` and no slot free anywhere, the place is ahead of a slot of the machine that is best otherwise.
        Without the main lock after `patience_s` none is chosen.
        """
        candidates: list[Candidate] = []
        slots: dict[Machine, Slot] = {}
        try:
            with self._services.slots.selection(self._services.caller.pause, patience_s):
                for machine in self._services.machines:
                    load = None
                    disabled = self._disabled.reason(machine) or self._refusal(request, machine)
                    failed = NOT_ASKED if machine in avoided else self._trouble(machine)
                    if not (disabled or failed) and suitable(request, machine) is None:
                        try:
                            slot, load = self._probe(machine)
                        except ConfigurationError as error:
                            failed = self._out[machine] = error.one_line
                        else:
                            if slot is not None:
                                slots[machine] = slot
                    # A build that has its inputs there comes first.
                    free = machine in slots and not self._hub.queue.awaited(self.at(machine))
                    candidates.append(Candidate(machine, load, free, failed, disabled))
                decision = decide(request, self._services.host, candidates)
                if decision.machine is not None:
                    slots[decision.machine].touch()
                    place = self._place(decision.machine, slots.pop(decision.machine))
                    self.promises.has_slot(request, place)
                    return decision, place
                if ahead:
                    chosen = decide(request, self._services.host, [self._ahead(each) for each in candidates])
                    if chosen.machine is not None:
                        return decision, self._place(chosen.machine, None)
                return self._patient(request, decision), None
        except BusyError as error:
            return self._none_chosen(request, error), None
        finally:
            for slot in slots.values():
                slot.release()

    def _none_chosen(self, request: Request, error: BusyError) -> Decision:
        verdicts = tuple(Verdict(machine, False, f"not looked at: {error}") for machine in self._services.machines)
        here = self._services.host.could_build(request)
        return Decision(Answer.DECLINE if here else Answer.POSTPONE, None, verdicts)

    def _probe(self, machine: Machine) -> tuple[Slot | None, int]:
        stem, caller = machine.uri.lock_stem(self._services.host.release), self._services.caller
        return self._services.slots.probe(stem, machine.max_jobs, lambda: caller.pause(0))

    def at(self, machine: Machine) -> SlotsOf:
        """Whose slots these are: lines of `builders` with one address share them."""
        return SlotsOf(self._services.private_dir, machine.uri.lock_stem(self._services.host.release))

    def _ahead(self, candidate: Candidate) -> Candidate:
        """The same machine as a place ahead of a slot: builds that have one are part of its load."""
        machine, look_ahead = candidate.machine, self._services.config.look_ahead
        ahead = self._hub.look_ahead.count(self.at(machine))
        limit = machine.max_jobs if look_ahead is None else look_ahead
        free = candidate.load is not None and machine.max_jobs > 0 and ahead < limit
        return replace(candidate, load=(candidate.load or 0) + ahead, slot_free=free)

    def _place(self, machine: Machine, slot: Slot | None) -> Place:
        """Hold `slot`, if any, and in any case the only permission to try a machine that had failed."""
        if self._hub.health.trying(self.key(machine)):
            self._probes.add(machine)
        place = Place(machine, self.name(machine), self.at(machine), slot, self._hub.look_ahead, self._left)
        self._places.add(place)
        return place

    def _left(self, place: Place) -> None:
        self._places.discard(place)
        if place.machine in self._probes:
            self._probes.discard(place.machine)
            self._hub.health.abandoned(self.key(place.machine))

    def wait(self, request: Request, *, ahead: bool = False) -> Place | None:
        """A place for an accepted build, best on a machine it has not lost; None when no machine is left for it.

        With `ahead` it may come without a slot.
        """
        s, health = self._services, self._hub.health
        ahead = ahead and self._hub.lasting
        failures = {machine: health.failures(self.key(machine)) for machine in s.machines}
        with self._hub.queue.first(self._kind(request), s.caller) as ticket:
            while True:
                place = self._decide_promised(request, self._losses, ahead=ahead)
                if place is None and self._losses:
                    place = self._decide_promised(request, ahead=ahead)
                if place is not None:
                    return place
                for machine, before in failures.items():
                    now = health.failures(self.key(machine))
                    failures[machine] = min(before, now)
                    if now - before >= LOSSES_ALLOWED:
                        reason = health.obstacle(self.key(machine)) or f"has failed {LOSSES_ALLOWED} times in a row"
                        self._out.setdefault(machine, reason)
                if not self._is_left(request):
                    return None
                self.remind(request)
                self._hub.queue.wait(ticket, s.caller)

    def wait_for_slot(self, request: Request, place: Place) -> Place:
        """`place` with a slot for a build that has its inputs there, or else another one that had a slot first.

        A slot elsewhere is left to builds that have their inputs nowhere yet, if there are any, unless the machine was
        disabled meanwhile.  MachineError if it was and no other is left.
        """
        try:
            ready = self._wait_for_slot(request, place)
        finally:
            self.promises.kept()
        self.promises.has_slot(request, ready)
        return ready

    def _wait_for_slot(self, request: Request, place: Place) -> Place:
        if self._disabled.since(place.machine) is None and place.start():
            return place
        kind, queue, caller = self._kind(request), self._hub.queue, self._services.caller
        self._log.message(Verbosity.TALKATIVE, f"'{request.drv_path}' waits for a slot on '{place.name}'")
        with queue.first(kind, caller, place.at) as ticket:
            while (disabled := self._disabled.reason(place.machine)) is None:
                if place.start(self._slot_of(place)):
                    return place
                if not queue.anywhere(kind):
                    other = self._decide_promised(request, {place.machine, *self._losses})
                    if other is not None:
                        return other
                queue.wait(ticket, caller)
        self._log.message(Verbosity.TALKATIVE, f"'{request.drv_path}' leaves '{place.name}': {disabled}")
        # Whoever drains the machine waits for this slot.
        place.release()
        if other := self.wait(request):
            return other
        raise MachineError(disabled)

    def _slot_of(self, place: Place) -> Slot | None:
        """A slot of a machine that we are connected to, whatever others have found it to be."""
        try:
            with self._services.slots.selection(self._services.caller.pause):
                slot, _ = self._probe(place.machine)
        except ConfigurationError as error:
            raise MachineError(error.one_line) from None
        if slot is None:
            return self._hub.look_ahead.borrow(place.at)
        slot.touch()
        return slot

    def _decide_promised(
        self, request: Request, avoided: Collection[Machine] = (), *, ahead: bool = False
    ) -> Place | None:
        """Choose for a build that was promised to Nix, which will not build it itself any more, willing or not."""
        while True:
            _, place = self.decide(replace(request, am_willing=False), avoided, ahead=ahead, patience_s=None)
            if place is None or is_handled(place.machine):
                return place
            place.release()
            self._out[place.machine] = "is one for the stock hook"

    def _kind(self, request: Request) -> QueueOf:
        """Builds of one kind wait for the same machines."""
        s = self._services
        lines = tuple(machine.text for machine in s.machines if self._given_up(request, machine) is None)
        return QueueOf(s.private_dir, s.host, lines, request.system, request.features, self._seen_by_ssh)

    def remind(self, request: Request) -> None:
        """Tell the user, once in a while, if none of the machines that could build it can be used now."""
        why = self._why_all_are_down(request)
        if why and self._services.notices.first_time("all are down", REMINDER_S):
            self._log.message(Verbosity.WARN, f"\x1b[35;1mwarning:\x1b[0m waiting for a machine: {why}")

    def _why_all_are_down(self, request: Request) -> str | None:
        able = [m for m in self._services.machines if m.max_jobs and suitable(request, m) is None]
        obstacles = {machine: self._obstacle(request, machine) for machine in able}
        if not able or not all(obstacles.values()):
            return None
        return "; ".join(f"'{self.name(machine)}': {obstacle}" for machine, obstacle in obstacles.items())

    def why_nowhere(self, request: Request) -> str:
        """Why the machines that this conversation has given up for this build are of no use, for the user."""
        given_up = {machine: self._given_up(request, machine) for machine in self._services.machines}
        return "; ".join(f"'{self.name(machine)}': {reason}" for machine, reason in given_up.items() if reason)

    def connect(
        self, place: Place, meanwhile: Callable[[], Value], *, needs_proof: bool = False
    ) -> tuple[Remote, Value]:
        """A connection to the machine of `place`, and what `meanwhile` returns, which runs while ssh authenticates.

        With `needs_proof` something has come from the machine within the last moment.  MachineError: there is none to
        be had, and the machine is left out from now on.  Errors of `meanwhile` are passed on.
        """
        machine, key = place.machine, self.key(place.machine)
        try:
            if warm := self._connections.take(machine):
                remote, value = self._connections.reuse(warm, meanwhile)
                remote.stream.heard = self._hub.health.ear(key)
                self._hub.health.trusts(key, trusted=remote.client.trusted, begun_at=remote.begun_at)
                if machine in self._probes and self._still_answers(machine, remote):
                    # It had failed since this connection was made.
                    self._hub.health.worked(key)
                    self._probes.discard(machine)
                    return remote, value
                if machine not in self._probes and (
                    not needs_proof or self._hub.health.is_proven(key) or self._still_answers(machine, remote)
                ):
                    return remote, value
            remote, value = self._open(place, meanwhile)
        except ConfigurationError as error:
            self._out[machine] = error.one_line
            raise MachineError(str(error)) from None
        except MachineError as error:
            self._out[machine] = error.one_line
            self._hub.health.failed(key, error.one_line, error.trouble.pause_s)
            self._probes.discard(machine)
            raise
        remote.stream.heard = self._hub.health.ear(key)
        self._hub.health.worked(key)
        self._hub.health.trusts(key, trusted=remote.client.trusted, begun_at=remote.begun_at)
        self._probes.discard(machine)
        return remote, value

    def _open(self, place: Place, meanwhile: Callable[[], Value]) -> tuple[Remote, Value]:
        """A connection of our own, for which all others give back what they keep where the machine's disk is full."""
        try:
            return self._connections.open(place.machine, place.name, meanwhile)
        except MachineError as error:
            if error.trouble is not Trouble.DISK_FULL or not self._hub.lasting:
                raise
            self._connections.renew(place.machine, place.name)
            return self._connections.open(place.machine, place.name, meanwhile)

    def _still_answers(self, machine: Machine, remote: Remote) -> bool:
        """Whether the machine of a warm connection answers; False if only that connection has ended.

        MachineError if nothing comes: then a new connection would only be one wait more.
        """
        from hook.remote.proof import prove

        try:
            prove(remote)
        except MachineError as error:
            remote.close()
            self._connections.doubt(machine, all_lost=True)
            if error.trouble is Trouble.TIMED_OUT:
                raise
            return False
        return True

    def distrust(self, machine: Machine) -> str | None:
        """Why `machine` may refuse what only users it trusts may do; None if nothing is known of that."""
        return self._hub.health.distrust(self.key(machine))

    def spare(self, request: Request, machine: Machine, reason: str) -> None:
        """Do not give this build to `machine`, which would refuse it; others it may take."""
        self._unwelcome.put((request.drv_path, machine), reason)

    def give_back(self, remote: Remote) -> None:
        """A connection whose build went through to the end."""
        self._connections.give_back(remote)

    def may_be_mended(self, place: Place, remote: Remote, error: MachineError) -> bool:
        """Whether a new connection may get what `remote` was refused; from now on only such a one is used there.

        The machine may have been mended since an old one was made.  A full disk may have room when all that we keep
        there between builds has been let go: its collector spares what belongs to a connection.
        """
        if place.is_over:
            return False
        if error.trouble is Trouble.DISK_FULL:
            worth = self._hub.lasting
        else:
            refused = isinstance(error, NotTrusted) or not isinstance(error, ConnectionLost | ProtocolError)
            worth = refused and self._connections.is_older(remote)
        if worth:
            self._connections.renew(place.machine, place.name)
        return worth

    def lost(self, machine: Machine, error: MachineError) -> None:
        """`machine` went away during a build, or refused it."""
        if error.trouble is Trouble.DISK_FULL:
            # Any other build would only find out again.
            self._hub.health.failed(self.key(machine), error.one_line, error.trouble.pause_s, by_build=True)
            self.leave_out(machine, error.one_line)
        else:
            self._hub.health.doubt(self.key(machine))
        self._connections.doubt(machine, all_lost=isinstance(error, ConnectionLost))
        self._losses[machine] = self._losses.get(machine, 0) + 1
        if isinstance(error, NotTrusted):
            self._hub.health.refused(self.key(machine), error.one_line)
        if self._losses[machine] >= LOSSES_ALLOWED or isinstance(error, NotTrusted):
            self.leave_out(machine, error.one_line)

    def leave_out(self, machine: Machine, reason: str) -> None:
        """Use `machine` no more in this conversation."""
        self._out[machine] = reason

    def _patient(self, request: Request, decision: Decision) -> Decision:
        """Nobody else can build it, and a machine that failed earlier may soon be tried again: have Nix ask later.

        A machine that failed in this very conversation is no reason to wait: Nix is then told, as by stock.
        """
        here = self._services.host.could_build(request)
        if decision.answer is Answer.DECLINE and not here and self._is_left(request):
            return replace(decision, answer=Answer.POSTPONE)
        return decision

    def usable(self, request: Request) -> list[Machine]:
        """The machines that lack nothing for it but, perhaps, a free slot."""
        machines = (m for m in self._services.machines if m.max_jobs and self._obstacle(request, m) is None)
        return [machine for machine in machines if suitable(request, machine) is None]

    def untried(self) -> list[Machine]:
        """Those of which nobody knows that they work."""
        return [machine for machine in self._services.machines if not self._hub.health.is_fresh(self.key(machine))]

    def able(self, request: Request) -> list[Machine]:
        """The machines that could build it, disabled or failing ones included, but none that was given up here."""
        machines = (m for m in self._services.machines if self._given_up(request, m) is None)
        return [machine for machine in machines if suitable(request, machine) is None]

    def _is_left(self, request: Request) -> bool:
        """Whether a machine that this conversation has not given up could build it, now or later."""
        return any(machine.max_jobs for machine in self.able(request))

    def _obstacle(self, request: Request, machine: Machine) -> str | None:
        """Why `machine` may not be used now for this build."""
        return self._disabled.reason(machine) or self._refusal(request, machine) or self._trouble(machine)

    def _given_up(self, request: Request, machine: Machine) -> str | None:
        """Why `machine` is not used again for this build."""
        return self._out.get(machine) or self._refusal(request, machine)

    def _refusal(self, request: Request, machine: Machine) -> str | None:
        """Why `machine` would refuse this build, but not others."""
        return self._unwelcome.get((request.drv_path, machine))

    def _trouble(self, machine: Machine) -> str | None:
        return self._out.get(machine) or self._hub.health.obstacle(self.key(machine))

    def key(self, machine: Machine) -> HealthOf:
        """Whose health this is: a line can mean another machine to a caller with other keys, or its own store."""
        own = self._services.store.state_dir
        return HealthOf(machine.uri.text, machine.ssh_key, machine.public_host_key, self._seen_by_ssh, own)
