"""One connection to a machine for the ssh sessions of many builds, as ssh's own ControlMaster has them.

The first ssh to a destination leaves a control connection behind, which the next ones find by its socket; that costs
them no TCP connection, key exchange or login.  Whoever comes while the first one logs in waits for it and shares its
fate: a crowd at its door is what sshd turns away (MaxStartups).  The connection ends by itself, shortly after its last
session, so nothing stays behind however the broker ends.  Where a session is refused, ssh makes a connection of its
own.  Who has a control connection in ssh's configuration or in NIX_SSHOPTS keeps it.  What a session proves of keys and
accounts was true when its connection logged in; so after JOIN_S nobody joins it any more, and another one is begun.
Tested in test_sharing.py and with a real ssh in the lab.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from hook.errors import MachineError
from hook.machines.identity import Destination
from hook.remote.child import Command
from hook.remote.cipher import cipher_option
from hook.remote.diagnosis import blames_sharing
from hook.remote.ssh import CONFIGURATION_TIMEOUT_S, options_first
from hook.remote.watch import Deadline

SESSIONS_EACH = 10
"""What sshd allows on one connection by default (MaxSessions); the next session begins another connection."""

PERSIST_S = 1
"""How long a control connection stays without a session: from one build to the next, where builds keep none warm."""

LONGEST_PATH = 90
"""A socket's name may have 107 bytes, of which ssh takes 17 for a temporary one."""

JOIN_S = 20.0
"""How old a control connection may be that a session joins."""

PAUSE_S = 0.01
FORGET_S = 600.0


@dataclass(slots=True)
class Trunk:
    """One control connection, by the path of its socket."""

    path: str
    begun_at: float
    """When it logged in, or a little earlier."""
    sessions: int = 0
    ready: threading.Event = field(default_factory=threading.Event)
    """Set when the first of its sessions has begun, or will not."""
    error: MachineError | None = None
    """Why it could not."""


@dataclass(slots=True)
class _Destination:
    trunks: list[Trunk] = field(default_factory=list)
    used_at: float = 0.0


class Seat:
    """Room for one session on `trunk`; `leave` it when that has ended."""

    def __init__(self, sharing: "Sharing", trunk: Trunk, options: tuple[str, ...], *, first: bool) -> None:
        self._sharing = sharing
        self._trunk = trunk
        self._options = options
        self._first = first

    @property
    def begun_at(self) -> float:
        """When the connection was begun that this session goes through."""
        return self._trunk.begun_at

    @contextmanager
    def opening(self, pause: Callable[[float], object], deadline: Deadline) -> Iterator[None]:
        """For the block in which the session begins: it comes after the first one's has, and not at all if that failed.

        `pause` does nothing for as many seconds.  MachineError, the same as there or because it takes too long, and the
        place is left.
        """
        trunk = self._trunk
        if not self._first:
            try:
                while not trunk.ready.is_set():
                    deadline()
                    pause(PAUSE_S)
                if trunk.error:
                    raise type(trunk.error)(str(trunk.error), trunk.error.trouble)
            except BaseException:
                self.leave()
                raise
            yield
            return
        try:
            yield
        except MachineError as error:
            # Otherwise others may do without sharing, as this one will.
            if not blames_sharing(error.one_line):
                # Not the error itself, which holds on to everything that led to it.
                trunk.error = type(error)(str(error), error.trouble)
            raise
        finally:
            trunk.ready.set()

    def command(self, command: Command) -> Command:
        """`command`, as a session of the shared connection."""
        path = self._trunk.path.replace("%", "%%")
        options = ("-oControlMaster=auto", f'-oControlPath="{path}"', f"-oControlPersist={PERSIST_S}", *self._options)
        return replace(command, argv=options_first(command.argv, options))

    def leave(self) -> None:
        """The session has ended."""
        self._sharing.left(self._trunk)


class Sharing:
    """Control connections by destination; thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._destinations: dict[Destination, _Destination] = {}
        self._count = 0
        self._name = os.urandom(4).hex()
        """Of our sockets: the number of a process may have been that of another broker, whose connections still are."""

    def join(self, destination: Destination, options: tuple[str, ...], private_dir: str) -> Seat | None:
        """Room for a session to `destination`, which tells ssh these `options`; None if there is none to be had.

        ssh must lead there now: it may have to make the connection, or make it again.
        """
        directory = os.path.join(private_dir, "ssh")
        with self._lock:
            now = self._clock()
            state = self._destinations.setdefault(destination, _Destination())
            state.used_at = now
            state.trunks = [trunk for trunk in state.trunks if now - trunk.begun_at < JOIN_S]
            trunk = next((trunk for trunk in state.trunks if trunk.sessions < SESSIONS_EACH), None)
            if trunk is None:
                self._count += 1
                trunk = Trunk(os.path.join(directory, f"{self._name}-{self._count}"), now)
                if len(os.fsencode(trunk.path)) > LONGEST_PATH:
                    return None
                state.trunks.append(trunk)
            first = trunk.sessions == 0
            if first:
                trunk.ready, trunk.error = threading.Event(), None
            trunk.sessions += 1
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        except OSError:
            if first:
                # Nobody who waits for it is to wait for ever.
                trunk.ready.set()
            self.left(trunk)
            return None
        return Seat(self, trunk, options, first=first)

    def left(self, trunk: Trunk) -> None:
        """A session has ended."""
        with self._lock:
            trunk.sessions -= 1

    def renew(self, destination: Destination) -> None:
        """A session went wrong, perhaps with all others on its connection: use a new one from now on."""
        with self._lock:
            if state := self._destinations.get(destination):
                state.trunks.clear()

    def tidy(self) -> None:
        """Forget where nobody goes any more."""
        oldest = self._clock() - FORGET_S
        with self._lock:
            for destination, state in list(self._destinations.items()):
                if state.used_at < oldest and not any(trunk.sessions for trunk in state.trunks):
                    del self._destinations[destination]


def session_options(
    command: Command, configuration: Mapping[str, Sequence[str]]
) -> tuple[tuple[str, ...] | None, bool]:
    """What builds tell ssh besides; None if it is configured to share connections by itself, or cannot say whether.

    Also says whether that may soon be otherwise: who has no more than a name for a control connection keeps one that is
    there.
    """
    if configuration.get("controlmaster") != ["false"]:
        return None, False
    if configuration.get("controlpath", ["none"]) != ["none"] and _is_shared(command):
        return None, True
    return cipher_option(command, configuration), False


def _is_shared(command: Command) -> bool:
    """Whether there is a control connection where the user's configuration has one; if in doubt, yes."""
    argv = command.argv[: command.argv.index("--")]
    try:
        done = subprocess.run(
            [*argv, "-Ocheck"],
            env=command.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=CONFIGURATION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return True
    return done.returncode == 0
