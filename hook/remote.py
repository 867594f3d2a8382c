"""A machine we are connected to: the transport and a handshaken client of the protocol it speaks.

Connecting is split in two so that the caller can do local work while ssh authenticates.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from hook.errors import MachineError, RemoteError
from hook.log import Log
from hook.machines import Machine
from hook.release import Release
from hook.transport import Connection, command_for

if TYPE_CHECKING:
    from hook.protocol.client import StoreClient


class Remote:
    """One connection to `machine`, shown to the user as `name`; close it whatever happens."""

    client: "StoreClient"
    """There from `shake_hands` on."""

    def __init__(
        self, machine: Machine, name: str, environ: Mapping[str, str], private_dir: str, release: Release, log: Log
    ) -> None:
        self.name = name
        self._scheme = machine.uri.scheme
        self._log = log
        self._ids: dict[int, int] = {}
        self._connection = Connection(command_for(machine, environ, private_dir, release), name)
        self.stream = self._connection.stream

    def shake_hands(self) -> None:
        """Finish connecting; MachineError, with what ssh said, if the machine cannot be used."""
        try:
            self.client = self._new_client()
        except RemoteError as error:
            raise MachineError(f"the daemon refused the connection: {error}") from None
        except MachineError as error:
            raise self.explain(error) from None
        self.stream.silence_s = None

    def _new_client(self) -> "StoreClient":
        if self._scheme == "ssh":
            from hook.protocol.serve import ServeClient

            return ServeClient(self.stream)
        from hook.protocol.worker import WorkerClient

        return WorkerClient(self.stream, lambda event: self._log.relay(self._ids, event))

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
