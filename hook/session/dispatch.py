"""Find a place for a build: a machine, one of its slots or a place ahead of one.

Joins the pure decision with the slot locks, and waits in line where no slot is free.  One Dispatcher serves one
conversation with Nix; what outlives it is in the Hub.  Tested in test_dispatch.py, test_waiting.py, test_lookahead.py
and test_disabled.py.
"""

from collections.abc import Collection
from dataclasses import replace

from hook.errors import ConfigurationError, MachineError
from hook.front.log import Log
from hook.machines.builders import Machine
from hook.machines.identity import is_handled
from hook.machines.places import Place
from hook.machines.schedule import Answer, Candidate, Decision, Verdict, decide
from hook.machines.slots import BusyError, Slot
from hook.protocol.activity import Verbosity
from hook.session.hub import Hub
from hook.session.promises import Promises
from hook.session.prospects import Prospects
from hook.session.roster import LOSSES_ALLOWED, Roster
from hook.session.services import Services

NOT_ASKED = "not asked, since others have taken long enough"

CHOOSING_S = 10.0
"""How long an answer to Nix may wait for other hooks that choose: only one that was stopped takes that long."""

REMINDER_S = 60.0
"""How often one Nix command is told that a machine cannot be used, or that none can."""


class Dispatcher:
    """Places for the builds of one conversation; `close` gives up whatever it still holds."""

    def __init__(self, hub: Hub, services: Services, log: Log, roster: Roster, promises: Promises) -> None:
        self._hub = hub
        self._services = services
        self._log = log
        self._roster = roster
        self._promises = promises
        self._places: set[Place] = set()

    def close(self) -> None:
        """Free every slot that was not given back, however the conversation ended."""
        self._promises.kept()
        for place in list(self._places):
            place.release()

    def decide(
        self,
        prospects: Prospects,
        avoided: Collection[Machine] = (),
        *,
        ahead: bool = False,
        is_promised: bool = False,
        patience_s: float | None = CHOOSING_S,
    ) -> tuple[Decision, Place | None]:
        """Choose a machine that is not among `avoided` and take its slot, in one step for all hooks on this host.

        With `ahead` and no slot free anywhere, the place is ahead of a slot of the machine that is best otherwise.
        Nix will not build itself what `is_promised`, willing or not.  Without the main lock after `patience_s` none is
        chosen.
        """
        request = replace(prospects.request, am_willing=False) if is_promised else prospects.request
        candidates: list[Candidate] = []
        slots: dict[Machine, Slot] = {}
        try:
            with self._services.slots.selection(self._services.caller.pause, patience_s):
                for machine in self._roster.machines:
                    load = None
                    disabled = prospects.unwilling(machine)
                    failed = NOT_ASKED if machine in avoided else self._roster.trouble(machine)
                    if not (disabled or failed) and prospects.suits(machine):
                        try:
                            slot, load = self._probe(machine)
                        except ConfigurationError as error:
                            failed = error.one_line
                            self._roster.leave_out(machine, failed)
                        else:
                            if slot is not None:
                                slots[machine] = slot
                    # A build that has its inputs there comes first.
                    free = machine in slots and not self._hub.queue.awaited(self._roster.slots_of(machine))
                    candidates.append(Candidate(machine, load, free, failed, disabled))
                decision = decide(request, self._services.host, candidates)
                if decision.machine is not None:
                    slots[decision.machine].touch()
                    place = self._place(decision.machine, slots.pop(decision.machine))
                    self._promises.has_slot(request, place)
                    return decision, place
                if ahead:
                    chosen = decide(request, self._services.host, [self._ahead(each) for each in candidates])
                    if chosen.machine is not None:
                        return decision, self._place(chosen.machine, None)
                return self._patient(prospects, decision), None
        except BusyError as error:
            return self._none_chosen(prospects, error), None
        finally:
            for slot in slots.values():
                slot.release()

    def _none_chosen(self, prospects: Prospects, error: BusyError) -> Decision:
        verdicts = tuple(Verdict(machine, False, f"not looked at: {error}") for machine in self._roster.machines)
        here = self._services.host.could_build(prospects.request)
        return Decision(Answer.DECLINE if here else Answer.POSTPONE, None, verdicts)

    def _patient(self, prospects: Prospects, decision: Decision) -> Decision:
        """Nobody else can build it, and a machine that failed earlier may soon be tried again: have Nix ask later.

        A machine that failed in this very conversation is no reason to wait: Nix is then told, as by stock.
        """
        here = self._services.host.could_build(prospects.request)
        if decision.answer is Answer.DECLINE and not here and prospects.any_left():
            return replace(decision, answer=Answer.POSTPONE)
        return decision

    def _probe(self, machine: Machine) -> tuple[Slot | None, int]:
        stem, caller = self._roster.slots_of(machine).lock_stem, self._services.caller
        return self._services.slots.probe(stem, machine.max_jobs, lambda: caller.pause(0))

    def _ahead(self, candidate: Candidate) -> Candidate:
        """The same machine as a place ahead of a slot: builds that have one are part of its load."""
        machine, look_ahead = candidate.machine, self._services.config.look_ahead
        ahead = self._hub.look_ahead.count(self._roster.slots_of(machine))
        limit = machine.max_jobs if look_ahead is None else look_ahead
        free = candidate.load is not None and machine.max_jobs > 0 and ahead < limit
        return replace(candidate, load=(candidate.load or 0) + ahead, slot_free=free)

    def _place(self, machine: Machine, slot: Slot | None) -> Place:
        """Hold `slot`, if any, and in any case the only permission to try a machine that had failed."""
        self._roster.try_it(machine)
        name, at = self._roster.name(machine), self._roster.slots_of(machine)
        place = Place(machine, name, at, slot, self._hub.look_ahead, self._left)
        self._places.add(place)
        return place

    def _left(self, place: Place) -> None:
        self._places.discard(place)
        self._roster.give_up_trying(place.machine)

    def wait(self, prospects: Prospects, *, ahead: bool = False) -> Place | None:
        """A place for an accepted build, best on a machine it has not lost; None when no machine is left for it.

        With `ahead` it may come without a slot.
        """
        s, roster = self._services, self._roster
        ahead = ahead and self._hub.lasting
        failures = {machine: roster.failures(machine) for machine in roster.machines}
        with self._hub.queue.first(prospects.queue_of(s.private_dir, s.host), s.caller) as ticket:
            while True:
                place = self._decide_promised(prospects, roster.losses, ahead=ahead)
                if place is None and roster.losses:
                    place = self._decide_promised(prospects, ahead=ahead)
                if place is not None:
                    return place
                for machine, before in failures.items():
                    now = roster.failures(machine)
                    failures[machine] = min(before, now)
                    if now - before >= LOSSES_ALLOWED:
                        roster.has_failed_often(machine)
                if not prospects.any_left():
                    return None
                self.remind(prospects)
                self._hub.queue.wait(ticket, s.caller)

    def wait_for_slot(self, prospects: Prospects, place: Place) -> Place:
        """`place` with a slot for a build that has its inputs there, or else another one that had a slot first.

        A slot elsewhere is left to builds that have their inputs nowhere yet, if there are any, unless the machine was
        disabled meanwhile.  MachineError if it was and no other is left.
        """
        try:
            ready = self._wait_for_slot(prospects, place)
        finally:
            self._promises.kept()
        self._promises.has_slot(prospects.request, ready)
        return ready

    def _wait_for_slot(self, prospects: Prospects, place: Place) -> Place:
        disabled, drv_path = self._roster.disabled, prospects.request.drv_path
        if disabled.since(place.machine) is None and place.start():
            return place
        queue, caller = self._hub.queue, self._services.caller
        kind = prospects.queue_of(self._services.private_dir, self._services.host)
        self._log.message(Verbosity.TALKATIVE, f"'{drv_path}' waits for a slot on '{place.name}'")
        with queue.first(kind, caller, place.at) as ticket:
            while (reason := disabled.reason(place.machine)) is None:
                if place.start(self._slot_of(place)):
                    return place
                if not queue.anywhere(kind):
                    other = self._decide_promised(prospects, {place.machine, *self._roster.losses})
                    if other is not None:
                        return other
                queue.wait(ticket, caller)
        self._log.message(Verbosity.TALKATIVE, f"'{drv_path}' leaves '{place.name}': {reason}")
        # Whoever drains the machine waits for this slot.
        place.release()
        if other := self.wait(prospects):
            return other
        raise MachineError(reason)

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
        self, prospects: Prospects, avoided: Collection[Machine] = (), *, ahead: bool = False
    ) -> Place | None:
        """Choose for a build that was promised to Nix, among machines to which there is a way."""
        while True:
            _, place = self.decide(prospects, avoided, ahead=ahead, is_promised=True, patience_s=None)
            if place is None or is_handled(place.machine):
                return place
            place.release()
            self._roster.leave_out(place.machine, "is one for the stock hook")

    def remind(self, prospects: Prospects) -> None:
        """Tell the user, once in a while, if none of the machines that could build it can be used now."""
        why = prospects.why_all_are_down()
        if why and self._services.notices.first_time("all are down", REMINDER_S):
            self._log.warning(f"waiting for a machine: {why}")
