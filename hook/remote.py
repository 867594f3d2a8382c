"""A machine we are connected to: the way there and a handshaken client of the protocol it speaks.

Connecting is split in two so that the caller can do local work while ssh authenticates.
"""

from typing import TYPE_CHECKING

from hook.errors import MachineError, RemoteError
from hook.known import KnownPaths
from hook.log import Log
from hook.protocol.activity import LogEvent, Verbosity
from hook.routes import Route
from hook.transport import Command
from hook.trouble import trouble_of

if TYPE_CHECKING:
    from hook.protocol.client import StoreClient
    from hook.sharing import Seat

QUERY_SILENCE_S = 60.0
"""How long a machine may take to answer, or to send the next byte, unless what it was asked can take any time."""


class Remote:
    """One connection, shown to the user as `name`; close it whatever happens.  With a `seat` it is shared with others.

    The time to get ready that its machine has begins with it and ends with `be_ready`, whatever the machine says until
    then.  It speaks for one build at a time: `attach` says to whose log, `detach` that the build is over.
    """

    client: "StoreClient"
    """There from `shake_hands` on."""

    def __init__(
        self,
        route: Route,
        scheme: str,
        name: str,
        seat: "Seat | None" = None,
        known: KnownPaths | None = None,
    ) -> None:
        self.route = route
        self.name = name
        self.known = known or KnownPaths()
        self._retired = False
        self._scheme = scheme
        self._log: Log | None = None
        self._ids: dict[int, int] = {}
        self._seat = seat
        try:
            self._connection = (seat.command(route) if seat and isinstance(route, Command) else route).connect(name)
        except MachineError:
            self._leave()
            raise
        self.stream = self._connection.stream

    def attach(self, log: Log, hangup_fd: int | None) -> None:
        """From now on pass on to `log` what the other end says, and stop waiting when `hangup_fd` becomes readable."""
        self._log = log
        self.stream.hangup_fd = hangup_fd

    def detach(self) -> None:
        """Nobody listens to this connection any more."""
        self._log = None
        self._ids.clear()
        self.stream.hangup_fd = None
        self.stream.copy_stderr(None)

    def is_clean(self) -> bool:
        """Whether the next request can only meet its own answer."""
        return not self._retired and self.client.idle and self.stream.is_clean()

    def doubt(self) -> None:
        """Nothing that was known of the machine counts, nor what others believe to know from now on."""
        self.known.forget()
        self.known = KnownPaths()

    def retire(self) -> None:
        """Have this connection serve no other build."""
        self._retired = True

    def shake_hands(self) -> None:
        """Finish connecting; MachineError, with what ssh said, if the machine cannot be used."""
        try:
            self.client = self._new_client()
        except RemoteError as error:
            raise MachineError(f"the daemon refused the connection: {error}", trouble_of(str(error))) from None
        except MachineError as error:
            raise self.explain(error) from None
        finally:
            self._show_what_ssh_said()

    def be_ready(self) -> None:
        """Everything that had to be asked first is answered: from now on only silence has a limit, not all together."""
        self.stream.watch = None
        self.stream.silence_s = QUERY_SILENCE_S

    def _show_what_ssh_said(self) -> None:
        if self._log is not None and self._log.verbosity >= Verbosity.CHATTY:
            for line in self.stream.stderr_lines():
                self._log.message(Verbosity.CHATTY, line)

    def _new_client(self) -> "StoreClient":
        if self._scheme == "ssh":
            from hook.protocol.serve import ServeClient

            return ServeClient(self.stream)
        from hook.protocol.worker import WorkerClient

        client = WorkerClient(self.stream, self._relay, self._relay_lines)
        if not isinstance(self.route, Command) and client.trusted is False:
            client.set_options(self.route.humble_options)
        elif self.route.options is not None:
            client.set_options(self.route.options)
        return client

    def _relay(self, event: LogEvent) -> None:
        if self._log is not None:
            self._log.relay(self._ids, event)

    def _relay_lines(self, activity: int, received: memoryview) -> int:
        return 0 if self._log is None else self._log.relay_lines(self._ids, activity, received)

    def explain(self, error: MachineError) -> MachineError:
        """`error` with what ssh had to say about it."""
        return self._connection.explain(error)

    def close(self) -> None:
        """End the connection; a build still running there is interrupted by its daemon."""
        # What is known of the machine lasts as long as a connection, not until this object is collected.
        self.known = KnownPaths()
        self._connection.close()
        self._leave()

    def _leave(self) -> None:
        if self._seat is not None:
            self._seat.leave()
            self._seat = None
