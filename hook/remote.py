"""A machine we are connected to: the transport and a handshaken protocol client.

Connecting is split in two so that the caller can do local work while ssh authenticates.
"""

from collections.abc import Mapping
from types import TracebackType

from hook.errors import FerryError, MachineError, RemoteError
from hook.log import Log
from hook.machines import Machine
from hook.protocol.worker import WorkerClient
from hook.transport import Connection, daemon_command


class Remote:
    """One connection to the daemon of `machine`; close it whatever happens."""

    def __init__(self, machine: Machine, name: str, environ: Mapping[str, str], private_dir: str, log: Log) -> None:
        self.machine = machine
        self.name = name
        self._log = log
        self._ids: dict[int, int] = {}
        self._connection = Connection(daemon_command(machine, environ, private_dir), name)
        self.stream = self._connection.stream

    def shake_hands(self) -> None:
        """Finish connecting; MachineError, with what ssh said, if the machine cannot be used."""
        try:
            self.client = WorkerClient(self.stream, lambda event: self._log.relay(self._ids, event))
        except RemoteError as error:
            raise MachineError(f"the daemon refused the connection: {error}") from None
        except MachineError as error:
            raise self._connection.explain(error) from None
        self.stream.silence_s = None

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


def one_line(error: FerryError) -> str:
    """An error's text on one line: remote messages may span several."""
    return " ".join(str(error).split())
