"""The life of one build, from Nix's question to the hook's exit status.

    settings → request → decide → connect → accept → upload → slot → build → download → exit

A Session serves one caller and does not know which process it runs in.  Before `# accept` every failure ends in an
answer that lets Nix go on; afterwards a build ends in success, in its own failure, or when no able machine is left to
try.  With a lasting hub two answers come early: a machine that worked a short while ago is taken to work, and a build
that waits for nothing but a slot waits here, instead of being asked about again, while its inputs travel.  For what Nix
could build itself there are stricter rules (promises.py).  Tested in test_session.py with scripted machines, and in the
lab.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hook.errors import (
    EXIT_FAILED,
    EXIT_OK,
    AloneOnly,
    BuildFailed,
    Cancelled,
    FerryError,
    InputsDoubted,
    MachineError,
    NotTrusted,
    StockOnly,
    StoreError,
)
from hook.front.caller import Caller, Word
from hook.front.front import Front
from hook.front.request import Job, Request
from hook.machines.places import Place
from hook.machines.schedule import Answer, Decision, no_machine_message
from hook.protocol.activity import Verbosity
from hook.session.dispatch import REMINDER_S, Dispatcher
from hook.session.hub import Hub
from hook.session.ledger import Outcome, Phase
from hook.session.services import open_services

if TYPE_CHECKING:
    from hook.remote.connection import Remote
    from hook.session.build import Builder


ANSWER_S = 35.0
"""After that, which is more than one machine can take, those of which nothing is known are left for the next time.

Nix does nothing else meanwhile.
"""


@dataclass(slots=True)
class Accepted:
    """A build that Nix has given away, and how far it has come."""

    request: Request
    builder: "Builder"
    name: str
    """The machine that has it, or had it last; at first, the one that Nix was told."""
    place: Place | None = None
    remote: "Remote | None" = None
    is_over: bool = False
    """Whether the machine is free for another build."""


class Session:
    """One conversation with Nix; `run` returns the hook's exit status."""

    def __init__(self, caller: Caller, hub: Hub) -> None:
        self._caller = caller
        self._hub = hub
        self._front = Front(caller)
        self._log = self._front.log
        self._told = hub.ledger.conversation(lambda: self._log.copied_bytes)

    def run(self) -> int:
        """Answer requests until one is accepted and built, or Nix has no more."""
        if self._front.at_end():
            return EXIT_OK
        settings = self._front.read_settings(self._hub.preamble)
        request = self._front.read_request()
        try:
            self._services = open_services(settings, self._caller, self._hub.databases, self._log)
        except AloneOnly:
            self._caller.successor = Word.ALONE
            return EXIT_OK
        except StockOnly as reason:
            return self._leave_to_stock(request, reason)
        try:
            with (
                closing(self._services),
                closing(Dispatcher(self._hub, self._services, self._log)) as self._dispatcher,
                closing(self._told),
            ):
                self._keep_for_stock()
                while True:
                    accepted = self._answer(request)
                    # Not before: Nix waited for that.
                    self._hub.ledger.meet(self._services.private_dir, self._dispatcher.machines())
                    if accepted:
                        status = self._carry_out(accepted)
                        # A machine's remarks while outputs are copied are part of the log, too.
                        self._caller.settle_log()
                        return status
                    if self._front.at_end():
                        return EXIT_OK
                    request = self._front.read_request()
        except StockOnly as reason:
            self._keep_for_stock()
            return self._leave_to_stock(request, reason)
        finally:
            # A broker does it later, when nobody waits.
            if not self._hub.lasting:
                self._hub.ledger.flush(self._services.private_dir)

    def _keep_for_stock(self) -> None:
        """Whatever becomes of us, the stock hook is not to stumble over a line or to use a machine that is disabled."""
        if (settings := self._services.stock_settings()) is not self._services.settings:
            self._front.keep_settings(settings)

    def _leave_to_stock(self, request: Request, reason: StockOnly) -> int:
        text = f"handing '{request.drv_path}' to the stock build hook: {reason.one_line}"
        self._log.message(Verbosity.TALKATIVE, text)
        self._caller.successor = Word.STOCK
        return EXIT_OK

    # Before the answer

    def _answer(self, request: Request) -> Accepted | None:
        """Accept the build; otherwise answer what fits and return None."""
        began = time.monotonic()
        while True:
            late = time.monotonic() - began > ANSWER_S
            decision, place = self._dispatcher.decide(request, self._dispatcher.untried() if late else ())
            likely = place.name if place else None
            if likely is None and not late:
                likely = self._dispatcher.promises.waits_for(request, decision)
            answer = Answer.ACCEPT if likely else self._dispatcher.promises.refusal(request, decision)
            self._explain(request, decision, answer)
            if likely is None:
                self._refuse(request, answer)
                return None
            try:
                accepted = self._prepare(request, likely, place)
            except NotTrusted as error:
                assert place is not None
                self._dispatcher.spare(request, place.machine, error.one_line)
                continue
            except MachineError as error:
                self._complain(likely, error)
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
                self._dispatcher.promises.promise(request)
            self._front.accept(likely)
            return accepted

    def _prepare(self, request: Request, name: str, place: Place | None) -> Accepted:
        """Everything that may still end in a refusal; gives up `place` on any error."""
        self._told.begin(request.drv_path, name)
        with ExitStack() as held:
            held.callback(self._told.drop)
            if place is not None:
                held.callback(place.release)
            accepted = self._unasked(request, name, place)
            if accepted is None:
                assert place is not None
                accepted = self._asked(request, name, place)
            held.pop_all()
            return accepted

    def _unasked(self, request: Request, name: str, place: Place | None) -> Accepted | None:
        """The build, if no machine must be asked before it is promised."""
        if place is None:
            return Accepted(request, self._builder(request), name)
        if not self._dispatcher.promises.may_accept_first(request, place):
            return None
        builder = self._builder(request)
        if self._dispatcher.promises.needs_proof(request):
            distrust = self._dispatcher.distrust(place.machine)
            if distrust is not None and builder.needs_trust(distrust):
                return None
        return Accepted(request, builder, name, place)

    def _asked(self, request: Request, name: str, place: Place) -> Accepted:
        """The build with a connection; NotTrusted if the machine would refuse it and Nix may build it itself."""
        needs_proof = self._dispatcher.promises.needs_proof(request)
        remote, builder = self._connect(place, lambda: self._builder(request), needs_proof=needs_proof)
        if needs_proof and (distrust := self._dispatcher.distrust(place.machine)) is not None:
            try:
                builder.check_trust(remote, distrust)
            except NotTrusted:
                self._dispatcher.give_back(remote)
                raise
            except MachineError as error:
                remote.close()
                self._dispatcher.lost(place.machine, error)
                self._dispatcher.leave_out(place.machine, error.one_line)
                raise
        return Accepted(request, builder, name, place, remote)

    def _connect(
        self, place: Place, prepare: Callable[[], "Builder"], *, needs_proof: bool = False
    ) -> tuple["Remote", "Builder"]:
        """A connection that can be used for this build; `prepare` is called while ssh authenticates."""
        remote, builder = self._dispatcher.connect(place, prepare, needs_proof=needs_proof)
        try:
            builder.check_machine(remote)
        except MachineError as error:
            remote.close()
            self._dispatcher.leave_out(place.machine, error.one_line)
            raise
        return remote, builder

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

        def arrived() -> None:
            self._told.enter(Phase.REGISTERING)

        return Builder(request.drv_path, derivation, self._services, self._hub.uploads, self._log, arrived)

    def _refuse(self, request: Request, answer: Answer) -> None:
        match answer:
            case Answer.DECLINE_PERMANENTLY:
                self._front.decline_permanently()
            case Answer.POSTPONE:
                self._dispatcher.remind(request)
                self._front.postpone()
            case _:
                self._front.decline()

    def _complain(self, name: str, error: MachineError) -> None:
        """Say why a machine cannot be used, once for all builds that find out together."""
        text = f"cannot build on '{name}': {error.one_line}"
        if self._services.notices.first_time(text, REMINDER_S):
            self._log.error(text)

    def _explain(self, request: Request, decision: Decision, answer: Answer) -> None:
        """Say why: every machine's verdict at `-v`, and stock's own text where no machine can ever do it."""
        if answer is not Answer.ACCEPT and not self._dispatcher.promises.is_news(request, decision):
            self._told.answered_again(answer.value)
            return
        verdicts = [(self._dispatcher.name(verdict.machine), verdict.reason) for verdict in decision.verdicts]
        self._told.decided(request.drv_path, answer.value, verdicts)
        for name, reason in verdicts:
            self._log.message(Verbosity.TALKATIVE, f"'{name}' for '{request.drv_path}': {reason}")
        if decision.answer is Answer.DECLINE and self._services.machines:
            level, text = no_machine_message(request, self._services.host, self._services.machines)
            self._log.message(level, text)

    # After `# accept`

    def _carry_out(self, build: Accepted) -> int:
        """Build what was accepted, moving to another machine when one is lost."""
        lost: MachineError | None = None
        self._told.promise([self._dispatcher.name(machine) for machine in self._dispatcher.able(build.request)])
        try:
            job = self._front.read_job()
            while True:
                if build.place is None:
                    self._find_place(build, job, lost)
                lost = self._attempt(build, job)
                if lost is None:
                    self._told.end(Outcome.BUILT)
                    return EXIT_OK
        except FerryError as error:
            name = build.place.name if build.place else build.name
            text = str(error) if isinstance(error, BuildFailed) else error.one_line
            self._log.error(f"build of '{build.request.drv_path}' on '{name}' failed: {text}")
            self._told.end(_outcome(error), error.one_line)
            return EXIT_FAILED
        finally:
            self._leave(build)

    def _find_place(self, build: Accepted, job: Job, lost: MachineError | None) -> None:
        """Wait for a machine; raises `lost`, why the last one failed, when none is left that could build it."""
        self._told.enter(Phase.WAITING)
        # Without inputs there is nothing to do before a slot is free.
        build.place = self._dispatcher.wait(build.request, ahead=bool(job.inputs))
        if build.place is None:
            nowhere = self._dispatcher.why_nowhere(build.request)
            raise lost or MachineError(f"no machine is left that could build it ({nowhere})")
        if lost is not None:
            self._told.lose(build.name)
            where = "there again" if build.place.name == build.name else f"on '{build.place.name}'"
            moved = f"'{build.name}' was lost ({lost.one_line}); building {where}"
            self._log.message(Verbosity.WARN, f"\x1b[35;1mwarning:\x1b[0m {moved}")
            build.name = build.place.name

    def _attempt(self, build: Accepted, job: Job) -> MachineError | None:
        """One try in one place, which is left afterwards; returns why the machine failed us, or None after success."""
        assert build.place is not None
        try:
            self._run_stubbornly(build, job)
        except BuildFailed:
            self._give_back(build)
            raise
        except MachineError as error:
            # Nix may have been told another one, or the build may just have come from there.
            build.name = build.place.name
            if build.remote is not None:
                error = _explained(build.remote, error)
                self._dispatcher.lost(build.place.machine, error)
            else:
                self._complain(build.place.name, error)
            self._leave(build)
            return error
        self._give_back(build)
        return None

    def _run_stubbornly(self, build: Accepted, job: Job) -> None:
        """Also over another connection, for each doubt about inputs, and once for anything else that may be mended."""
        is_mended = False
        while True:
            assert build.place is not None
            try:
                return self._run(build, build.place, job)
            except InputsDoubted:
                self._hang_up(build)
            except MachineError as error:
                if is_mended or not self._is_worth_another_connection(build, error):
                    raise
                is_mended = True
                self._hang_up(build)

    def _is_worth_another_connection(self, build: Accepted, error: MachineError) -> bool:
        """Whether the machine may do over another connection, in the same place, what it has not done over this one."""
        if build.remote is None or build.place is None or build.is_over:
            return False
        return self._dispatcher.may_be_mended(build.place, build.remote, _explained(build.remote, error))

    def _run(self, build: Accepted, place: Place, job: Job) -> None:
        build.is_over = False
        place, remote = self._make_ready(build, place, job)
        self._told.enter(Phase.BUILDING, place.name)
        began = time.monotonic()

        def over(is_built: bool) -> None:
            build.is_over = True
            if is_built:
                self._dispatcher.promises.ran(build.request, place, time.monotonic() - began)
            place.release()
            self._told.enter(Phase.FETCHING)

        build.builder.run(remote, job, over)

    def _make_ready(self, build: Accepted, place: Place, job: Job) -> tuple[Place, "Remote"]:
        """Bring the inputs to a machine and have a slot there; the slot may come first elsewhere."""
        while True:
            if build.remote is None:
                self._told.enter(Phase.CONNECTING, place.name)
                build.remote, _ = self._connect(place, lambda: build.builder)
            self._told.enter(Phase.SENDING)
            build.builder.bring_inputs(build.remote, job, place.lend)
            self._told.enter(Phase.WAITING)
            ready = self._dispatcher.wait_for_slot(build.request, place)
            if ready is place:
                break
            self._give_back(build)
            place.release()
            build.place = place = ready
        if place.name != build.name:
            moved = f"'{build.request.drv_path}' is built on '{place.name}', which was free first"
            self._log.message(Verbosity.TALKATIVE, moved)
            build.name = place.name
        return place, build.remote

    def _give_back(self, build: Accepted) -> None:
        """The build went through to its end: the connection is good for another one."""
        if build.remote is not None:
            self._dispatcher.give_back(build.remote)
            build.remote = None

    def _leave(self, build: Accepted) -> None:
        """Close the connection, if there is one, and free the slot."""
        self._hang_up(build)
        if build.place is not None:
            build.place.release()
            build.place = None

    def _hang_up(self, build: Accepted) -> None:
        if build.remote is not None:
            build.remote.close()
            build.remote = None


def _explained(remote: "Remote", error: MachineError) -> MachineError:
    """`error` with what ssh had to say about it, and with advice."""
    # Loaded when something has gone wrong.
    from hook.remote.diagnosis import with_advice

    return with_advice(remote.explain(error))


def _outcome(error: FerryError) -> Outcome:
    match error:
        case BuildFailed():
            return Outcome.FAILED
        case Cancelled():
            return Outcome.CANCELLED
    return Outcome.ERROR
