"""A machine we are connected to: the way there and a handshaken client of the protocol it speaks.

Connecting has two phases, so that the caller can do local work while ssh authenticates: a Link is there as soon as ssh
is started, a Remote when the machine has answered.  Tested in test_connections.py, test_pool.py and test_unixsocket.py.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hook.errors import MachineError, RemoteError, Trouble
from hook.front.log import Log
from hook.machines.identity import Destination
from hook.protocol.activity import LogEvent, Verbosity
from hook.remote.child import Command
from hook.remote.diagnosis import trouble_of
from hook.remote.known import KnownPaths
from hook.remote.routes import Route

if TYPE_CHECKING:
    from hook.protocol.client import StoreClient
    from hook.remote.sharing import Seat

QUERY_SILENCE_S = 60.0
"""How long a machine may take to answer, or to send the next byte, unless what it was asked can take any time."""

MISMATCH = "protocol mismatch"
"""What either program of Nix says to the first word of the other protocol, and ends."""


LONGEST_S = 55.0
"""How old a connection may be that a build begins with: what is changed on the machine is noticed within a minute."""

RENEW_S = 10.0
"""From this age on another one takes its place: while it lasts, its daemon keeps alive what was brought or built."""

RENEW_LOGIN_S = 35.0
"""The same for the age of the login, which is older where sessions share a connection."""

RENEW_BUILDS, MOST_BUILDS = 100, 200
RENEW_BYTES, LEAST_BYTES = 64 << 20, 16 << 20
"""What may have come and gone over all that serve the jobs of a machine, which is about what they keep alive there, and
over each of them in any case.  Twice that is too much.  Also, a daemon that is told to collect when the disk gets full
(`min-free`) looks when it begins, and then every five seconds."""


@dataclass(frozen=True, slots=True)
class Address:
    """How a machine is reached that is shown to the user as `name`.

    `longest_s` is the greatest age at which a build may begin with a connection; `jobs` is how many may run there at
    once.
    """

    route: Route
    scheme: str
    name: str
    longest_s: float = LONGEST_S
    jobs: int = 1


class Link:
    """The way to a machine, open or about to be; nothing was said yet.  Close it, whatever becomes of it.

    The time to get ready that the machine has begins with it.  With a `seat` it is shared with others.
    """

    def __init__(self, address: Address, seat: "Seat | None" = None) -> None:
        self.address = address
        self.begun_at = time.monotonic()
        self.login_at = seat.begun_at if seat else self.begun_at
        self._seat = seat
        route = address.route
        try:
            way = seat.command(route) if seat and isinstance(route, Command) else route
            self._transport = way.connect(address.name)
        except MachineError:
            self._leave()
            raise
        self.stream = self._transport.stream

    def explain(self, error: MachineError) -> MachineError:
        """`error` with what ssh had to say about it."""
        return self._transport.explain(error)

    def close(self) -> None:
        """End it."""
        self._transport.close()
        self._leave()

    def _leave(self) -> None:
        if self._seat is not None:
            self._seat.leave()
            self._seat = None


class Remote:
    """One connection, over a link that is its own from now on, unless the machine cannot be used: MachineError.

    The error has what ssh said.  The machine's time to get ready ends with `be_ready`, whatever it says until then.  A
    connection speaks for one build at a time: `attach` says to whose log, `detach` that the build is over.
    """

    is_followed = False
    """Whether another one was begun to take its place."""

    connect_s = 0.0
    """How long it took to be made."""

    def __init__(
        self,
        link: Link,
        known: KnownPaths | None = None,
        destination: Destination | None = None,
        log: Log | None = None,
        hangup_fd: int | None = None,
    ) -> None:
        self.address = link.address
        self.route = link.address.route
        self.name = link.address.name
        self.begun_at = link.begun_at
        self.login_at = link.login_at
        self.destination = destination
        """Where it belongs; None as long as that is not certain."""
        self.builds = 0
        self._renew_bytes = max(RENEW_BYTES // max(link.address.jobs, 1), LEAST_BYTES)
        self.known = known or KnownPaths()
        self._retired = False
        self._log: Log | None = None
        self._ids: dict[int, int] = {}
        self._link = link
        self.stream = link.stream
        if log is not None:
            self.attach(log, hangup_fd)
        self.client: StoreClient = self._shake_hands()

    def attach(self, log: Log, hangup_fd: int | None) -> None:
        """From now on pass on to `log` what the other end says, and stop waiting when `hangup_fd` hangs up."""
        self._log = log
        self.stream.hangup_fd = hangup_fd
        self.builds += 1

    def detach(self) -> None:
        """Nobody listens to this connection any more."""
        self._log = None
        self._ids.clear()
        # In this order: the last words may have to wait for a reader, who may go away.
        self.stream.copy_stderr(None)
        self.stream.hangup_fd = None

    def is_clean(self) -> bool:
        """Whether the next request can only meet its own answer."""
        return not self._retired and self.client.idle and self.stream.is_clean()

    @property
    def is_worn(self) -> bool:
        """Whether another one should take its place."""
        age_s, login_s, moved = self._use()
        return (
            age_s > min(RENEW_S, self.address.longest_s / 2)
            or login_s > RENEW_LOGIN_S
            or self.builds >= RENEW_BUILDS
            or moved >= self._renew_bytes
        )

    @property
    def is_worn_out(self) -> bool:
        """Whether no other build may begin with it."""
        age_s, login_s, moved = self._use()
        return (
            age_s >= self.address.longest_s
            or login_s >= LONGEST_S
            or self.builds >= MOST_BUILDS
            or moved >= 2 * self._renew_bytes
        )

    @property
    def is_heavy(self) -> bool:
        """Whether much came and went over it."""
        return self._use()[2] >= self._renew_bytes

    def _use(self) -> tuple[float, float, int]:
        now = time.monotonic()
        return now - self.begun_at, now - self.login_at, self.stream.bytes_in + self.stream.bytes_out

    def doubt(self) -> None:
        """Nothing that was known of the machine counts, nor what others believe to know from now on."""
        self.known.forget()
        self.known = KnownPaths()

    def retire(self) -> None:
        """Have this connection serve no other build."""
        self._retired = True

    def _shake_hands(self) -> "StoreClient":
        try:
            return self._new_client()
        except RemoteError as error:
            raise MachineError(f"the daemon refused the connection: {error}", trouble_of(str(error))) from None
        except MachineError as error:
            raise _with_other_protocol(self.explain(error), self.name) from None
        finally:
            self._show_what_ssh_said()

    def be_ready(self) -> None:
        """Everything that had to be asked first is answered: from now on only silence has a limit, not all together."""
        self.stream.watch = None
        self.stream.silence_s = QUERY_SILENCE_S
        self.connect_s = time.monotonic() - self.begun_at

    def _show_what_ssh_said(self) -> None:
        if self._log is not None and self._log.verbosity >= Verbosity.CHATTY:
            for line in self.stream.stderr_lines():
                self._log.message(Verbosity.CHATTY, line)

    def _new_client(self) -> "StoreClient":
        if self.address.scheme == "ssh":
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
        return self._link.explain(error)

    def close(self) -> None:
        """End the connection; a build still running there is interrupted by its daemon."""
        # Its daemon spared what came over it from the machine's collector.
        self.known.forget()
        self.known = KnownPaths()
        self._link.close()


def _with_other_protocol(error: MachineError, name: str) -> MachineError:
    """`error`, with what helps if the machine `name` answers in the protocol of the other scheme, whatever it is asked.

    As it does where authorized_keys says what a login runs.
    """
    text = error.one_line
    if MISMATCH not in text:
        return error
    other = "ssh" if name.startswith("ssh-ng:") else "ssh-ng"
    return type(error)(text, Trouble.PROTOCOL, f"a login there runs the program for '{other}://': write that instead")
