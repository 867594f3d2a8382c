"""A build that Nix has given away: carried out, if need be on one machine after the other.

It ends in success, in its own failure, or when no able machine is left to try.  Tested in test_session.py with scripted
machines, and in the lab.
"""

import time

from hook.errors import EXIT_FAILED, EXIT_OK, BuildFailed, Cancelled, FerryError, InputsDoubted, MachineError
from hook.front.front import Front
from hook.front.log import Log
from hook.front.request import Job
from hook.machines.places import Place
from hook.protocol.activity import Verbosity
from hook.remote.connection import Remote
from hook.remote.diagnosis import with_advice
from hook.session.build import Builder
from hook.session.contacts import Contacts
from hook.session.dispatch import Dispatcher
from hook.session.ledger import Conversation, Outcome, Phase
from hook.session.promises import Promises
from hook.session.prospects import Prospects


class Accepted:
    """One build, from its accept on; used by one thread.

    `name` is the machine that Nix was told, `place` and `remote` are those that it has already.
    """

    def __init__(
        self,
        prospects: Prospects,
        builder: Builder,
        name: str,
        place: Place | None,
        remote: Remote | None,
        *,
        dispatcher: Dispatcher,
        contacts: Contacts,
        promises: Promises,
        told: Conversation,
        log: Log,
    ) -> None:
        self._prospects = prospects
        self._name = name
        """The machine that has it, or had it last."""
        self._builder = builder
        self._place = place
        self._remote = remote
        self._is_over = False
        """Whether the machine is free for another build."""
        self._dispatcher = dispatcher
        self._contacts = contacts
        self._promises = promises
        self._told = told
        self._log = log

    def carry_out(self, front: Front) -> int:
        """Build it, moving to another machine when one is lost; returns the hook's exit status."""
        lost: MachineError | None = None
        try:
            job = front.read_job()
            while True:
                if self._place is None:
                    self._place = self._find_place(job, lost)
                lost = self._attempt(job)
                if lost is None:
                    self._told.end(Outcome.BUILT)
                    return EXIT_OK
        except FerryError as error:
            name = self._place.name if self._place else self._name
            text = str(error) if isinstance(error, BuildFailed) else error.one_line
            self._log.error(f"build of '{self._prospects.request.drv_path}' on '{name}' failed: {text}")
            self._told.end(_outcome(error), error.one_line)
            return EXIT_FAILED
        finally:
            self._leave()

    def _find_place(self, job: Job, lost: MachineError | None) -> Place:
        """Wait for a machine; raises `lost`, why the last one failed, when none is left that could build it."""
        self._told.enter(Phase.WAITING)
        # Without inputs there is nothing to do before a slot is free.
        place = self._dispatcher.wait(self._prospects, ahead=bool(job.inputs))
        if place is None:
            raise lost or MachineError(f"no machine is left that could build it ({self._prospects.why_nowhere()})")
        if lost is not None:
            self._told.lose(self._name)
            where = "there again" if place.name == self._name else f"on '{place.name}'"
            self._log.warning(f"'{self._name}' was lost ({lost.one_line}); building {where}")
            self._name = place.name
        return place

    def _attempt(self, job: Job) -> MachineError | None:
        """One try in one place, which is left afterwards; returns why the machine failed us, or None after success."""
        try:
            self._run_stubbornly(job)
        except BuildFailed:
            self._give_back()
            raise
        except MachineError as error:
            place = self._place
            assert place is not None
            # Nix may have been told another one, or the build may just have come from there.
            self._name = place.name
            if self._remote is not None:
                error = self._explained(self._remote, error)
                self._contacts.lost(place.machine, error)
            else:
                self._contacts.complain(place.name, error)
            self._leave()
            return error
        self._give_back()
        return None

    def _run_stubbornly(self, job: Job) -> None:
        """Also over another connection, for each doubt about inputs, and once for anything else that may be mended."""
        is_mended = False
        while True:
            try:
                return self._run(job)
            except InputsDoubted:
                self._hang_up()
            except MachineError as error:
                if is_mended or not self._is_worth_another_connection(error):
                    raise
                is_mended = True
                self._hang_up()

    def _is_worth_another_connection(self, error: MachineError) -> bool:
        """Whether the machine may do over another connection, in the same place, what it has not done over this one."""
        if self._remote is None or self._place is None or self._is_over:
            return False
        return self._contacts.may_be_mended(self._place, self._remote, self._explained(self._remote, error))

    def _run(self, job: Job) -> None:
        self._is_over = False
        place, remote = self._make_ready(job)
        self._told.enter(Phase.BUILDING, place.name)
        began = time.monotonic()
        built = self._builder.build(remote, job)
        self._is_over = True
        if built.is_new:
            self._promises.ran(self._prospects.request, place, time.monotonic() - began)
        place.release()
        self._told.enter(Phase.FETCHING)
        with self._builder.fetched(remote, job, built):
            self._told.enter(Phase.REGISTERING)

    def _make_ready(self, job: Job) -> tuple[Place, Remote]:
        """Bring the inputs to a machine and have a slot there; the slot may come first elsewhere."""
        while True:
            assert self._place is not None
            place = self._place
            if self._remote is None:
                self._remote = self._connect(place)
            self._told.enter(Phase.SENDING)
            self._builder.bring_inputs(self._remote, job, place.lend)
            self._told.enter(Phase.WAITING)
            ready = self._dispatcher.wait_for_slot(self._prospects, place)
            if ready is place:
                break
            self._give_back()
            place.release()
            self._place = ready
        if place.name != self._name:
            moved = f"'{self._prospects.request.drv_path}' is built on '{place.name}', which was free first"
            self._log.message(Verbosity.TALKATIVE, moved)
            self._name = place.name
        return place, self._remote

    def _connect(self, place: Place) -> Remote:
        self._told.enter(Phase.CONNECTING, place.name)
        with self._contacts.begin(place) as contact:
            remote = contact.finish()
        self._contacts.check(place, remote, self._builder)
        return remote

    def _give_back(self) -> None:
        """The build went through to its end: the connection is good for another one."""
        if self._remote is not None:
            self._contacts.give_back(self._remote)
            self._remote = None

    def _leave(self) -> None:
        """Close the connection, if there is one, and free the slot."""
        self._hang_up()
        if self._place is not None:
            self._place.release()
            self._place = None

    def _hang_up(self) -> None:
        if self._remote is not None:
            self._remote.close()
            self._remote = None

    def _explained(self, remote: Remote, error: MachineError) -> MachineError:
        """`error` with what ssh had to say about it, and with advice."""
        return with_advice(remote.explain(error))


def _outcome(error: FerryError) -> Outcome:
    match error:
        case BuildFailed():
            return Outcome.FAILED
        case Cancelled():
            return Outcome.CANCELLED
    return Outcome.ERROR
