"""Ask the broker that hooks of this user and environment would use, and read the record it keeps.

Its directory is where the shim looks for it (native/shim/reach.c), and there it is the one of those who stand where we
do, or else in the same namespaces with other rights, as a daemon may have; nothing is made here, and no broker is
started.  Tested in broker/test_client.py.
"""

import json
import os
import pwd
import socket
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from typing import Any, Self

from hook.broker.identity import IDENTITY
from hook.broker.server import ASKING, CREDENTIALS, Question
from hook.broker.serving import HEADER, LENGTH
from hook.broker.standing import same_namespaces, socket_path, socket_paths, standing_of
from hook.errors import FerryError
from hook.store.location import own_directory, state_dir_of

TIMEOUT_S = 10.0


def broker_directory(environ: Mapping[str, str]) -> str:
    """Where the broker of this user is, or would be; FerryError if that is another user's."""
    state_dir = state_dir_of(environ)
    runtime = environ.get("XDG_RUNTIME_DIR")
    # Whoever owns it could put another directory in the place of ours.
    parents = [state_dir, runtime] if runtime and _owner(runtime) == os.geteuid() else [state_dir]
    owners = {own: _owner(own) for own in map(own_directory, parents)}
    for directory, owner in owners.items():
        if owner == os.geteuid():
            return directory
    first, owner = next(iter(owners.items()))
    if owner is not None:
        name = user_name(owner)
        raise FerryError(f"'{first}' belongs to user '{name}', who builds on this host: run this as '{name}'")
    for parent in parents:
        if os.access(parent, os.W_OK):
            return own_directory(parent)
    if not os.path.exists(state_dir):
        # A store of the user's own, say.
        raise FerryError(f"there is no '{state_dir}' for a broker, nor a XDG_RUNTIME_DIR: each hook works alone")
    raise FerryError(f"only who may write to '{state_dir}' builds on this host: run this as root")


def own_socket(directory: str) -> str:
    """Where the broker of those who stand where we do listens, or would; FerryError if that cannot be seen."""
    standing = standing_of(0)
    if standing is None:
        raise FerryError("'/proc' does not show this process, so there can be no broker for it")
    return socket_path(directory, standing)


def _owner(directory: str) -> int | None:
    try:
        return os.stat(directory, follow_symlinks=False).st_uid
    except OSError:
        return None


def user_name(uid: int) -> str:
    """Of a user of this host; the number if there is no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class RunningBroker:
    """A connection to a broker, whose process is `pid`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.pid: int
        self.pid, _, _ = CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        )

    @classmethod
    def reach(cls, directory: str) -> Self | None:
        """Connect; None if no broker of ours listens there."""
        first = own_socket(directory)
        for path in (first, *socket_paths(directory)):
            found = cls.connect(path)
            if found is not None:
                if path == first or same_namespaces(found.pid, os.getpid()):
                    return found
                found.close()
        return None

    @classmethod
    def connect(cls, path: str) -> Self | None:
        """Connect to whoever listens at `path`."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(path)
            return cls(connection)
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        except OSError as error:
            connection.close()
            raise FerryError(f"cannot reach the broker at '{path}': {error.strerror or error}") from None

    def ask(self, question: Question, about: str = "") -> dict[str, Any]:
        """What it says of itself; FerryError if that cannot be understood.  One question a connection."""
        words = question.value + (b" " + os.fsencode(about) if about else b"")
        try:
            self._connection.sendall(HEADER.pack(ASKING, len(words)) + words)
            (length,) = LENGTH.unpack(self._receive(LENGTH.size))
            report = json.loads(self._receive(length))
        except OSError as error:
            raise FerryError(f"the broker (process {self.pid}) does not answer: {error.strerror or error}") from None
        except ValueError:
            report = None
        if not isinstance(report, dict) or report.get("identity") != IDENTITY:
            raise FerryError(
                f"the broker (process {self.pid}) is of another build than this command; "
                "the next build replaces it, as does 'nix-ferry broker restart --now'"
            )
        return report

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _receive(self, size: int) -> bytes:
        """Exactly `size` bytes; ValueError if fewer come."""
        data = bytearray()
        while len(data) < size:
            piece = self._connection.recv(min(size - len(data), 1 << 16))
            if not piece:
                raise ValueError("it has hung up")
            data += piece
        return bytes(data)


def say_they_work(addresses: Iterable[str], environ: Mapping[str, str]) -> None:
    """Have the broker try these machines again, if there is one of ours: they were found to work."""
    with suppress(FerryError):
        for address in addresses:
            retry(broker_directory(environ), address)


def retry(directory: str, address: str) -> bool:
    """Have the broker in `directory` try a machine again that had failed; False if there is no broker."""
    broker = RunningBroker.reach(directory)
    if broker is None:
        return False
    with closing(broker):
        broker.ask(Question.WORKED, address)
    return True


def overview_of(directory: str) -> dict[str, Any] | None:
    """What the broker in `directory` is doing; None if there is none.  Its record is up to date afterwards."""
    broker = RunningBroker.reach(directory)
    if broker is None:
        return None
    with closing(broker):
        return broker.ask(Question.STATUS)


def elsewhere(directory: str) -> str:
    """Words about brokers in `directory` that serve callers in other namespaces; empty if there are none."""
    pids = []
    for path in socket_paths(directory):
        with suppress(FerryError):
            found = RunningBroker.connect(path)
            if found is not None:
                found.close()
                if found.pid and same_namespaces(found.pid, os.getpid()) is False:
                    pids.append(str(found.pid))
    if not pids:
        return ""
    return f"; for builds in other namespaces: {'process' if len(pids) == 1 else 'processes'} {', '.join(pids)}"
