"""Contact with machines: a connection for a build, and what each try tells of its machine.

A connection is made in two phases, so that there is time for our own work while ssh authenticates:

    with contacts.begin(place) as contact:
        builder = ...
        remote = contact.finish()

Tested in test_dispatch.py, test_connections.py and test_promises.py.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from hook.errors import ConfigurationError, ConnectionLost, MachineError, NotTrusted, ProtocolError, Trouble
from hook.front.log import Log
from hook.machines.builders import Machine
from hook.machines.places import Place
from hook.session.connections import Connections
from hook.session.dispatch import REMINDER_S
from hook.session.hub import Hub
from hook.session.roster import Roster
from hook.session.services import Services

if TYPE_CHECKING:
    from types import TracebackType

    from hook.remote.connection import Remote
    from hook.remote.opening import Opening
    from hook.session.build import Builder


class Contacts:
    """Those of one conversation; `close` ends what was not given back."""

    def __init__(self, hub: Hub, services: Services, log: Log, roster: Roster) -> None:
        self.is_lasting = hub.lasting
        self.connections = Connections(hub, services, log)
        self.roster = roster
        self._notices = services.notices
        self._log = log

    def close(self) -> None:
        """Close every connection that was not given back."""
        self.connections.close()

    def begin(self, place: Place, *, needs_proof: bool = False) -> "Contact":
        """A connection to the machine of `place`, to be made in a block.

        With `needs_proof` something must have come from the machine within the last moment.
        """
        return Contact(self, place, needs_proof=needs_proof)

    def check(self, place: Place, remote: "Remote", builder: "Builder") -> None:
        """MachineError, after which the machine is left out, if it cannot build what `builder` builds."""
        try:
            builder.check_machine(remote)
        except MachineError as error:
            remote.close()
            self.roster.leave_out(place.machine, error.one_line)
            raise

    def give_back(self, remote: "Remote") -> None:
        """A connection whose build went through to the end."""
        self.connections.give_back(remote)

    def complain(self, name: str, error: MachineError) -> None:
        """Say why a machine cannot be used, once for all builds that find out together."""
        text = f"cannot build on '{name}': {error.one_line}"
        if self._notices.first_time(text, REMINDER_S):
            self._log.error(text)

    def may_be_mended(self, place: Place, remote: "Remote", error: MachineError) -> bool:
        """Whether a new connection may get what `remote` was refused; from now on only such a one is used there.

        The machine may have been mended since an old one was made.  A full disk may have room when all that we keep
        there between builds has been let go: its collector spares what belongs to a connection.
        """
        if place.is_over:
            return False
        if error.trouble is Trouble.DISK_FULL:
            worth = self.is_lasting
        else:
            refused = isinstance(error, NotTrusted) or not isinstance(error, ConnectionLost | ProtocolError)
            worth = refused and self.connections.is_older(remote)
        if worth:
            self.connections.renew(place.machine, place.name)
        return worth

    def lost(self, machine: Machine, error: MachineError) -> None:
        """`machine` went away during a build, or refused it."""
        self.roster.lost(machine, error)
        self.connections.doubt(machine, all_lost=isinstance(error, ConnectionLost))


class Contact:
    """A connection to the machine of `place` that is being made; `finish` it in its block, once.

    MachineError, from the block's beginning or from `finish`: there is none to be had, and the machine is left out from
    now on.  Whatever ends the block before, nothing is left of it.
    """

    def __init__(self, contacts: Contacts, place: Place, *, needs_proof: bool) -> None:
        self._contacts = contacts
        self._connections = contacts.connections
        self._roster = contacts.roster
        self._place = place
        self._machine = place.machine
        self._needs_proof = needs_proof
        self._warm: Remote | None = None
        self._opening: Opening | None = None
        self._held = ExitStack()
        self._may_make_room = contacts.is_lasting

    def __enter__(self) -> "Contact":
        with self._noted():
            self._warm = self._connections.take(self._machine)
            if self._warm is None:
                self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: "TracebackType | None"
    ) -> None:
        if self._warm is not None:
            # It was not needed.
            self._connections.give_back(self._warm)
        self._held.__exit__(kind, error, traceback)

    def finish(self) -> "Remote":
        """The connection, now the caller's."""
        with self._noted():
            warm, self._warm = self._warm, None
            if warm is not None and self._is_good(warm):
                return warm
            if self._opening is None:
                self._begin()
            remote = self._finish()
        self._roster.met(self._machine, remote)
        self._roster.works(self._machine)
        return remote

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """What goes wrong in the block is the machine's fault."""
        try:
            yield
        except ConfigurationError as error:
            self._roster.leave_out(self._machine, error.one_line)
            raise MachineError(str(error)) from None
        except MachineError as error:
            self._roster.has_failed(self._machine, error)
            raise

    def _is_good(self, warm: "Remote") -> bool:
        """Whether a build may begin with a connection that was there before; otherwise nothing is left of it.

        MachineError if nothing comes from the machine: then a new connection would only be one wait more.
        """
        self._roster.met(self._machine, warm)
        if self._roster.is_tried(self._machine):
            # It had failed since this connection was made.
            if self._still_answers(warm):
                self._roster.works(self._machine)
                return True
            return False
        return not self._needs_proof or self._roster.is_proven(self._machine) or self._still_answers(warm)

    def _still_answers(self, warm: "Remote") -> bool:
        from hook.remote.proof import prove

        try:
            prove(warm)
        except MachineError as error:
            warm.close()
            self._connections.doubt(self._machine, all_lost=True)
            if error.trouble is Trouble.TIMED_OUT:
                raise
            return False
        return True

    def _begin(self) -> None:
        try:
            self._opening = self._open()
        except MachineError as error:
            self._make_room(error)
            self._opening = self._open()

    def _finish(self) -> "Remote":
        assert self._opening is not None
        try:
            remote = self._opening.finish()
        except MachineError as error:
            self._make_room(error)
            remote = self._open().finish()
        self._connections.own(remote)
        return remote

    def _open(self) -> "Opening":
        return self._held.enter_context(self._connections.begin(self._machine, self._place.name))

    def _make_room(self, error: MachineError) -> None:
        """Have all others give back what they keep where the machine's disk is full, once; `error` if it is not."""
        if error.trouble is not Trouble.DISK_FULL or not self._may_make_room:
            raise error
        self._may_make_room = False
        self._held.close()
        self._connections.renew(self._machine, self._place.name)
