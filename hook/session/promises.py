"""What may be promised to Nix, and what it is told instead.

`# accept` cannot be taken back: Nix never builds that derivation itself any more.  Where it could, a promise needs a
machine that answered a moment ago, and a slot that is free or soon will be.  Where it could not, waiting is all there
is.  Tested in test_promises.py, and with two kinds of slots in tests/lab/test_mix.py.
"""

from hook.front.request import Request
from hook.machines.identity import SlotsOf, is_handled
from hook.machines.places import Place
from hook.machines.schedule import Answer, Decision
from hook.session.hub import Hub
from hook.session.prospects import Prospects
from hook.session.roster import Roster
from hook.session.services import Services
from hook.values.release import Release

WOKEN_BY_OWN_SLOTS: Release = (2, 35)
"""From here on a declined build is asked about again only when a slot of Nix itself may be free."""


class Promises:
    """The rules for one conversation, and the promise that it has given, if its build still waits for a slot."""

    def __init__(self, hub: Hub, services: Services, roster: Roster) -> None:
        self._hub = hub
        self._services = services
        self._roster = roster
        self._promised_at: list[SlotsOf] = []

    def may_accept_first(self, prospects: Prospects, place: Place) -> bool:
        """Whether a promise to build it in `place` can be given without asking.

        What Nix could build itself rests on that very machine: another one may have no slot, now or for long.  For the
        rest some able machine is enough that is known to work: a build may move, and Nix does nothing else meanwhile.
        """
        if not self._hub.lasting or not is_handled(place.machine):
            return False
        if self.needs_proof(prospects.request):
            return self._roster.is_proven(place.machine)
        return any(self._roster.is_fresh(machine) for machine in prospects.able())

    def needs_proof(self, request: Request) -> bool:
        """Whether Nix would build it itself where no machine does: then it is not given away on a mere chance."""
        return self._services.host.could_build(request)

    def waits_for(self, prospects: Prospects, decision: Decision) -> str | None:
        """The name of a machine that lacks nothing but a free slot for this build; None if it must not wait here.

        What Nix could build itself waits only for a slot that it is expected to have soon: once promised, it is never
        built here, however many slots are free here meanwhile.
        """
        backlog = self._hub.backlog
        if decision.answer is not Answer.POSTPONE or backlog is None:
            return None
        request, roster = prospects.request, self._roster
        able = [machine for machine in prospects.usable() if is_handled(machine)]
        if self.needs_proof(request):
            able = [m for m in able if roster.distrust(m) is None and roster.is_proven(m)]
            if not backlog.starts_soon([roster.slots_of(machine) for machine in able], request.drv_path):
                return None
        return roster.name(max(able, key=lambda m: m.speed_factor)) if able else None

    def refusal(self, request: Request, decision: Decision) -> Answer:
        """What to tell Nix about a build that it was not promised.

        Up to 2.34 a declined build that finds no free slot there is asked about again as soon as any other one ends,
        here or elsewhere, but a postponed one only after five seconds.  Later the end of a build elsewhere wakes
        nobody who was declined.
        """
        any_end_wakes = self._services.host.release < WOKEN_BY_OWN_SLOTS
        if decision.answer is Answer.POSTPONE and any_end_wakes and self.needs_proof(request):
            return Answer.DECLINE
        return decision.answer

    def is_news(self, request: Request, decision: Decision) -> bool:
        """Whether Nix has not heard before why this build only waits for a slot."""
        if decision.answer is not Answer.POSTPONE or self._hub.backlog is None:
            return True
        build = self._services.caller.parent_pid, request.drv_path
        return self._hub.backlog.is_news(build, tuple(verdict.reason for verdict in decision.verdicts))

    def promise(self, prospects: Prospects) -> None:
        """A build is promised that has no slot yet."""
        if self._hub.backlog is not None:
            self._promised_at = [self._roster.slots_of(machine) for machine in prospects.usable()]
            self._hub.backlog.enter(self._promised_at)

    def kept(self) -> None:
        """It has one, or waits no more."""
        if self._hub.backlog is not None:
            self._hub.backlog.leave(self._promised_at)
            self._promised_at = []

    def has_slot(self, request: Request, place: Place) -> None:
        """A build has the slot of `place` from now on."""
        if self._hub.backlog is not None and place.slot is not None:
            self._hub.backlog.occupied(place.slot, place.at, request.drv_path)

    def ran(self, request: Request, place: Place, seconds: float) -> None:
        """A build has taken so long, and has built something."""
        self._hub.health.built(self._roster.health_of(place.machine))
        if self._hub.backlog is not None:
            self._hub.backlog.ran(place.at, request.drv_path, seconds)
