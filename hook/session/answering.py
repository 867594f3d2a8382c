"""What Nix is answered: whether a build is accepted, declined or postponed, and why.

    request → decide → connect → accept

Every failure here ends in an answer that lets Nix go on.  With a lasting hub two answers come early: a machine that
worked a short while ago is taken to work, and a build that waits for nothing but a slot waits here, instead of being
asked about again, while its inputs travel.  For what Nix could build itself there are stricter rules (promises.py).
Tested in test_session.py with scripted machines, and in the lab.
"""

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from hook.errors import Cancelled, FerryError, MachineError, NotTrusted, StockOnly, StoreError
from hook.front.front import Front
from hook.front.request import Request
from hook.machines.places import Place
from hook.machines.schedule import Answer, Decision, no_machine_message
from hook.protocol.activity import Verbosity
from hook.session.contacts import Contacts
from hook.session.dispatch import Dispatcher
from hook.session.hub import Hub
from hook.session.ledger import Conversation
from hook.session.promises import Promises
from hook.session.prospects import Prospects
from hook.session.roster import Roster
from hook.session.services import Services
from hook.transfer.meter import Meter

if TYPE_CHECKING:
    from hook.remote.connection import Remote
    from hook.session.accepted import Accepted
    from hook.session.build import Builder

ANSWER_S = 35.0
"""After that, which is more than one machine can take, those of which nothing is known are left for the next time.

Nix does nothing else meanwhile.
"""


class Answering:
    """The answers of one conversation; `close` gives up whatever was taken for a build and not given back."""

    def __init__(self, front: Front, hub: Hub, services: Services, told: Conversation, meter: Meter) -> None:
        self._front = front
        self._log = front.log
        self._hub = hub
        self._services = services
        self._told = told
        self._meter = meter
        self.roster = Roster(hub, services)
        self._promises = Promises(hub, services, self.roster)
        self._contacts = Contacts(hub, services, self._log, self.roster)
        self._dispatcher = Dispatcher(hub, services, self._log, self.roster, self._promises)

    def close(self) -> None:
        """Close connections and free slots, however the conversation ended."""
        self._contacts.close()
        self._dispatcher.close()

    def answer(self, request: Request) -> "Accepted | None":
        """Accept the build; otherwise answer what fits and return None."""
        prospects = Prospects(request, self.roster)
        began = time.monotonic()
        while True:
            late = time.monotonic() - began > ANSWER_S
            decision, place = self._dispatcher.decide(prospects, self.roster.untried() if late else ())
            likely = place.name if place else None
            if likely is None and not late:
                likely = self._promises.waits_for(prospects, decision)
            answer = Answer.ACCEPT if likely else self._promises.refusal(request, decision)
            self._explain(request, decision, answer)
            if likely is None:
                self._refuse(prospects, answer)
                return None
            try:
                accepted = self._prepare(prospects, likely, place)
            except NotTrusted as error:
                assert place is not None
                self.roster.spare(request.drv_path, place.machine, error.one_line)
                continue
            except MachineError as error:
                self._contacts.complain(likely, error)
                continue
            except (StockOnly, Cancelled):
                raise
            except FerryError as error:
                # Nix can build it here, or else its own hook may be able to do what we are not.
                if not request.am_willing:
                    raise
                self._log.error(f"cannot build '{request.drv_path}' on another machine: {error.one_line}")
                self._front.decline()
                return None
            if place is None:
                self._promises.promise(prospects)
            self._front.accept(likely)
            # Not before: Nix waited for that.
            self._told.promise([self.roster.name(machine) for machine in prospects.able()])
            return accepted

    def _prepare(self, prospects: Prospects, name: str, place: Place | None) -> "Accepted":
        """Everything that may still end in a refusal; gives up `place` on any error."""
        self._told.begin(prospects.request.drv_path, name)
        with ExitStack() as held:
            held.callback(self._told.drop)
            if place is not None:
                held.callback(place.release)
            builder, remote = self._unasked(prospects, place), None
            if builder is None:
                assert place is not None
                builder, remote = self._asked(prospects.request, place)
            from hook.session.accepted import Accepted

            held.pop_all()
        return Accepted(
            prospects,
            builder,
            name,
            place,
            remote,
            dispatcher=self._dispatcher,
            contacts=self._contacts,
            promises=self._promises,
            told=self._told,
            log=self._log,
        )

    def _unasked(self, prospects: Prospects, place: Place | None) -> "Builder | None":
        """What builds it, if no machine must be asked before it is promised."""
        request = prospects.request
        if place is None:
            return self._builder(request)
        if not self._promises.may_accept_first(prospects, place):
            return None
        builder = self._builder(request)
        if self._promises.needs_proof(request):
            distrust = self.roster.distrust(place.machine)
            if distrust is not None and builder.needs_trust(distrust):
                return None
        return builder

    def _asked(self, request: Request, place: Place) -> tuple["Builder", "Remote"]:
        """What builds it, over a connection; NotTrusted if the machine would refuse it and Nix may build it itself."""
        needs_proof = self._promises.needs_proof(request)
        with self._contacts.begin(place, needs_proof=needs_proof) as contact:
            # Meanwhile ssh authenticates.
            builder = self._builder(request)
            remote = contact.finish()
        self._contacts.check(place, remote, builder)
        if needs_proof and (distrust := self.roster.distrust(place.machine)) is not None:
            try:
                builder.check_trust(remote, distrust)
            except NotTrusted:
                self._contacts.give_back(remote)
                raise
            except MachineError as error:
                remote.close()
                self._contacts.lost(place.machine, error)
                self.roster.leave_out(place.machine, error.one_line)
                raise
        return builder, remote

    def _builder(self, request: Request) -> "Builder":
        # Loaded while ssh authenticates: none of it is needed to choose a machine.
        from hook.session.loading import load

        load(lasting=self._hub.lasting)
        from hook.session.build import Builder

        store = self._services.store
        # Also opens the database: one that needs the stock hook must be noticed before the accept.
        if not store.database.valid_among([request.drv_path]):
            raise StoreError(f"path '{request.drv_path}' is not valid")
        derivation = store.read_derivation(request.drv_path)
        return Builder(request.drv_path, derivation, self._services, self._hub.uploads, self._log, self._meter)

    def _refuse(self, prospects: Prospects, answer: Answer) -> None:
        match answer:
            case Answer.DECLINE_PERMANENTLY:
                self._front.decline_permanently()
            case Answer.POSTPONE:
                self._dispatcher.remind(prospects)
                self._front.postpone()
            case _:
                self._front.decline()

    def _explain(self, request: Request, decision: Decision, answer: Answer) -> None:
        """Say why: every machine's verdict at `-v`, and stock's own text where no machine can ever do it."""
        if answer is not Answer.ACCEPT and not self._promises.is_news(request, decision):
            self._told.answered_again(answer.value)
            return
        verdicts = [(self.roster.name(verdict.machine), verdict.reason) for verdict in decision.verdicts]
        self._told.decided(request.drv_path, answer.value, verdicts)
        for name, reason in verdicts:
            self._log.message(Verbosity.TALKATIVE, f"'{name}' for '{request.drv_path}': {reason}")
        if decision.answer is Answer.DECLINE and self.roster.machines:
            level, text = no_machine_message(request, self._services.host, self.roster.machines)
            self._log.message(level, text)
