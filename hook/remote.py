"""A machine we are connected to: the transport and a handshaken client of the protocol it speaks.

Connecting is split in two so that the caller can do local work while ssh authenticates.
"""

from collections.abc import Mapping
from types import TracebackType

from hook.errors import FerryError, MachineError, RemoteError
from hook.log import Log
from hook.machines import Machine
from hook.protocol.activity import Verbosity
from hook.protocol.serve import ServeClient, ServeOptions
from hook.protocol.worker import Options, WorkerClient
from hook.settings import Settings
from hook.transport import Connection, command_for

BUILD_LOG_FD = 4
"""Where Nix expects the raw log of a build, see the build-hook protocol."""


class Remote:
    """One connection to `machine`, shown to the user as `name`; close it whatever happens."""

    def __init__(
        self, machine: Machine, name: str, environ: Mapping[str, str], private_dir: str, settings: Settings, log: Log
    ) -> None:
        self.name = name
        self._machine = machine
        self._settings = settings
        self._log = log
        self._ids: dict[int, int] = {}
        self._connection = Connection(command_for(machine, environ, private_dir), name)
        self.stream = self._connection.stream
        self.client: WorkerClient | ServeClient

    def shake_hands(self) -> None:
        """Finish connecting; MachineError, with what ssh said, if the machine cannot be used."""
        try:
            if self._machine.uri.scheme == "ssh":
                self.client = ServeClient(self.stream, serve_options(self._settings))
            else:
                self.client = WorkerClient(self.stream, lambda event: self._log.relay(self._ids, event))
        except RemoteError as error:
            raise MachineError(f"the daemon refused the connection: {error}") from None
        except MachineError as error:
            raise self._connection.explain(error) from None
        self.stream.silence_s = None

    @property
    def distrusts_us(self) -> bool:
        """Whether the other end said that it does not trust us; most do not say either way."""
        return isinstance(self.client, WorkerClient) and self.client.hello.trusted is False

    def begin_build(self) -> None:
        """Make the user's limits known there, and let the build log flow from here on."""
        if isinstance(self.client, ServeClient):
            # With this protocol the remote's standard error is the build log.
            self.stream.copy_stderr(BUILD_LOG_FD)
        elif options := worker_options(self._settings, self._log.verbosity):
            self.client.set_options(options)

    def settle_log(self) -> None:
        """Wait until everything the build printed has arrived.

        By `ssh://` it takes another way than the result; an answer to a later request has overtaken nothing.
        """
        if isinstance(self.client, ServeClient):
            self.client.query_valid_paths([], substitute=False)

    def explain(self, error: MachineError) -> MachineError:
        """`error` with what ssh had to say about it."""
        return self._connection.explain(error)

    def close(self) -> None:
        """End the connection; a build still running there is interrupted by its daemon."""
        self._connection.close()

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def serve_options(settings: Settings) -> ServeOptions:
    """The limits that `ssh://` passes with each build."""
    return ServeOptions(
        max_silent_time_s=settings.number("max-silent-time", 0),
        timeout_s=settings.number("timeout", 0),
        max_log_bytes=settings.number("max-build-log-size", 0),
        keep_failed=settings.flag("keep-failed", False),
    )


def worker_options(settings: Settings, verbosity: int) -> Options | None:
    """The options to send by `ssh-ng://`, or None if the user set none that a builder should know.

    SetOptions has fields that override the builder's own configuration whether one means it or not (cores,
    substitution), and the stock hook never sends it; so neither do we without need.
    """
    limits = serve_options(settings)
    if limits == ServeOptions(0, 0, 0, keep_failed=False):
        return None
    others = {"timeout": limits.timeout_s, "max-build-log-size": limits.max_log_bytes}
    return Options(
        keep_failed=limits.keep_failed,
        keep_going=False,
        fallback=False,
        verbosity=max(verbosity, Verbosity.INFO),
        max_silent_time_s=limits.max_silent_time_s,
        cores=0,
        substitute=settings.flag("substitute", True),
        others={name: str(value) for name, value in others.items() if value},
    )


def one_line(error: FerryError) -> str:
    """An error's text on one line: remote messages may span several."""
    return " ".join(str(error).split())
