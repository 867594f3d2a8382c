"""The broker: one process of a user that serves all hooks, and remembers between builds what a hook would forget.

It is for callers that stand where it does (standing.py), and serves no others, not even if they find it.

Each hook is the shim (native/shim).  It connects to its broker's socket in the private directory and sends a greeting:
8 bytes `nixferry`, u32 length, then its version, last argument, parent's process id and environment, each ended by a
NUL.  Back come single bytes: a State, first at once and then whenever what Nix waits for changes; at the end `x` and
the exit status, or `s`, u32 length and that many bytes: the shim goes on alone, as if Nix had sent these bytes and then
what is still to be read.  The shim answers the first byte with one of its own and its descriptors 0, 2 and 4.

Whoever asks how things are sends 8 bytes `ferryask`, u32 length and a Question; back come u32 length and what `report`
says, then the end.  After `retire` the end comes with that of the broker, which is when its last hook has been served.
After `worked` come a blank and the address of a machine that was found to work.

A shim that hears nothing looks for another broker or does without; one that loses its broker later answers Nix itself.
When the shim's end closes, its build is given up.

One thread a hook, blocking I/O.  A session that fails is logged and never takes the broker with it.  The broker ends
when it has had nothing to do for a while, or when a hook of another version wants its place; whoever has connected by
then is served.  Tested in test_broker.py.
"""

import array
import fcntl
import os
import socket
import stat
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import Self

import hook
from hook.caller import Caller, State
from hook.journal import log
from hook.standing import LOCK, SOCKET, lock_path, socket_path, socket_paths, standing_of

HEADER = struct.Struct("<8sI")
LENGTH = struct.Struct("<I")
MAGIC = b"nixferry"
ASKING = b"ferryask"
MAX_QUESTION_BYTES = 64 << 10
MAX_GREETING_BYTES = 64 << 20
GREETING_TIMEOUT_S = 10.0
IDLE_EXIT_S = 15 * 60.0
HOUSEKEEPING_S = 5.0
TAKEOVER_S = 10.0
"""How long a broker that has stopped listening may take to let go of the lock."""

TAKEOVER_RETRY_S = 0.01
ALONE = b"s"
STATUS = b"x"
CREDENTIALS = struct.Struct("3i")

Serve = Callable[[Caller], int]
"""Serves one hook and returns its exit status."""

Report = Callable[[], bytes]
"""Tells how things are."""


class Question(Enum):
    """What a broker can be asked."""

    STATUS = b"status"
    RETIRE = b"retire"
    WORKED = b"worked"


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a shim says first."""

    version: str
    argument: str
    parent_pid: int
    environ: Mapping[str, str]

    @classmethod
    def receive(cls, connection: socket.socket, length: int) -> Self:
        """Read one of `length` bytes, whose header was read; ValueError if it is malformed."""
        if length > MAX_GREETING_BYTES:
            raise ValueError(f"its greeting has {length} bytes")
        words = [os.fsdecode(word) for word in _receive(connection, length).split(b"\0")]
        if len(words) < 4:
            raise ValueError(f"its greeting has {len(words) - 1} words")
        version, argument, parent, *entries, _ = words
        pairs = (entry.partition("=") for entry in entries)
        return cls(version, argument, int(parent), {name: value for name, _, value in pairs})


@contextmanager
def descriptors(connection: socket.socket) -> Iterator[tuple[int, int, int]]:
    """The descriptors of a shim that was answered: Nix's requests, the answers to Nix, and the log of a build."""
    fds = array.array("i")
    try:
        space = socket.CMSG_SPACE(3 * fds.itemsize)
        _, ancillary, flags, _ = connection.recvmsg(1, space, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content)
        if flags & socket.MSG_CTRUNC or len(fds) != 3:
            raise ValueError(f"it came with {len(fds)} descriptors or more")
        for index in (1, 2):
            fds[index] = _not_waiting(fds[index])
        yield fds[0], fds[1], fds[2]
    finally:
        # Nix regards the hook as finished when the last copy of its pipe is closed, and the shim must have that.
        for fd in fds:
            os.close(fd)


def _not_waiting(fd: int) -> int:
    """A descriptor for writing to the same pipe that does not wait while it is full, in place of `fd`; closes that.

    A session that waits is to look at its hook meanwhile.  The pipe is opened anew, since how `fd` waits is a matter of
    all processes that have it.  What is not a pipe, or not to be opened, is left as it is.
    """
    with suppress(OSError):
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            other = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.close(fd)
            return other
    return fd


def check_peer(connection: socket.socket) -> int:
    """The process at the other end; PermissionError unless it is of our own user."""
    pid: int
    uid: int
    pid, uid, _ = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    if uid != os.geteuid():
        raise PermissionError(f"it belongs to user {uid}")
    return pid


def open_lock(path: str) -> int:
    """What a broker keeps locked."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def is_at(fd: int, path: str) -> bool:
    """Whether the open file `fd` is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def remove_dead(directory: str) -> None:
    """Remove what brokers that were killed have left in `directory`; there may be one for every namespace that was."""
    for path in socket_paths(directory):
        lock = path.removesuffix(SOCKET) + LOCK
        with suppress(OSError):
            fd = open_lock(lock)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if is_at(fd, lock):
                    os.unlink(path)
                    os.unlink(lock)
            finally:
                os.close(fd)


class Broker:
    """Listens in `directory`, which is ours alone, and serves every hook of `standing` in a thread of its own.

    `tidy` is called now and then, `report` when somebody asks, `worked` with the address of a machine that was found to
    work.
    """

    def __init__(
        self,
        directory: str,
        standing: str,
        serve: Serve,
        tidy: Callable[[], None],
        report: Report,
        *,
        idle_exit_s: float = IDLE_EXIT_S,
        housekeeping_s: float = HOUSEKEEPING_S,
        worked: Callable[[str], object] = lambda address: None,
    ) -> None:
        self._directory = directory
        self._path = socket_path(directory, standing)
        self._lock_path = lock_path(directory, standing)
        self._standing = standing
        self._serve = serve
        self._tidy = tidy
        self._report = report
        self._worked = worked
        self.idle_exit_s = idle_exit_s
        self._housekeeping_s = housekeeping_s
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._listening = False
        self._sessions = 0
        self._until_the_end: list[socket.socket] = []
        """Connections of those who wait for it."""
        self.last_used = time.monotonic()

    def listen(self) -> bool:
        """Begin to listen; False if another broker does already."""
        self._lock_fd = open_lock(self._lock_path)
        if not self._take_over():
            os.close(self._lock_fd)
            return False
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(self._path)
        self._inode = os.stat(self._path).st_ino
        self._socket.listen(1024)
        self._listening = True
        return True

    def _take_over(self) -> bool:
        """Become the only broker; False if another one listens."""
        deadline = time.monotonic() + TAKEOVER_S
        while True:
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if is_at(self._lock_fd, self._lock_path):
                    return True
                # One that has left has removed it.
                os.close(self._lock_fd)
                self._lock_fd = open_lock(self._lock_path)
                continue
            except BlockingIOError:
                # One that leaves removes its socket before it lets go of the lock.
                if os.path.exists(self._path) or time.monotonic() > deadline:
                    return False
            time.sleep(TAKEOVER_RETRY_S)

    def run(self) -> None:
        """Serve until idle for long or retired, and then until the last session has ended."""
        # On its own: closing a connection to a machine that is gone takes a moment, and Nix waits for us here.
        housekeeper = threading.Thread(target=self._keep_house, daemon=True)
        housekeeper.start()
        while self._accept():
            pass
        self._socket.setblocking(False)
        # Whoever connected before the retirement; after it the kernel lets nobody in.
        with suppress(OSError):
            while True:
                self._begin(self._socket.accept()[0])
        self._socket.close()
        if is_at(self._lock_fd, self._lock_path):
            os.unlink(self._lock_path)
        os.close(self._lock_fd)
        with self._changed:
            self._changed.wait_for(lambda: self._sessions == 0)
        self._over.set()
        housekeeper.join()

    def close(self) -> None:
        """Let those know that it has ended who have waited for it."""
        for connection in self._until_the_end:
            connection.close()

    def retire(self) -> None:
        """Make room for another broker: hooks that have connected stay, no other gets in."""
        with self._changed:
            if self._listening:
                self._listening = False
                # In this order: a hook that is turned away starts another broker, if it finds no socket.
                if self._is_reachable():
                    os.unlink(self._path)
                self._socket.shutdown(socket.SHUT_RD)

    def _accept(self) -> bool:
        """Take the next hook; False if we have retired."""
        try:
            self._begin(self._socket.accept()[0])
        except OSError as error:
            with self._changed:
                if not self._listening:
                    return False
                # Out of descriptors, until a session ends.
                log(f"cannot accept a hook: {error}")
                self._changed.wait(self._housekeeping_s)
        return True

    def _keep_house(self) -> None:
        remove_dead(self._directory)
        while not self._over.wait(self._housekeeping_s):
            if self._is_idle() or not self._is_reachable():
                self.retire()
            try:
                self._tidy()
            except Exception:  # noqa: BLE001 - what is kept in order here is not worth a broker
                log(traceback.format_exc())

    def _is_idle(self) -> bool:
        with self._changed:
            return self._sessions == 0 and time.monotonic() - self.last_used > self.idle_exit_s

    def _is_reachable(self) -> bool:
        """Whether our socket is still where hooks look for it; another broker's may be, if somebody removed ours."""
        try:
            return os.stat(self._path).st_ino == self._inode
        except OSError:
            return False

    # Sessions

    def _begin(self, connection: socket.socket) -> None:
        with self._changed:
            self._sessions += 1
        try:
            threading.Thread(target=self._session, args=(connection,), daemon=True).start()
        except RuntimeError as error:
            log(f"cannot serve a hook: {error}")
            connection.close()
            self._ended()

    def _ended(self) -> None:
        with self._changed:
            self._sessions -= 1
            self._changed.notify_all()

    def _session(self, connection: socket.socket) -> None:
        try:
            with connection:
                pid = check_peer(connection)
                connection.settimeout(GREETING_TIMEOUT_S)
                magic, length = HEADER.unpack(_receive(connection, HEADER.size))
                if magic == ASKING:
                    self._tell(connection, length)
                    return
                if magic != MAGIC:
                    raise ValueError("it is no nix-ferry-hook")
                if standing_of(pid) != self._standing:
                    raise PermissionError("it stands elsewhere: in other namespaces, or with other rights")
                greeting = Greeting.receive(connection, length)
                if greeting.version == hook.__version__:
                    self._converse(connection, greeting, f"/proc/{pid}/root")
                else:
                    log(f"making room for version {greeting.version}")
                    self.retire()
        except (OSError, ValueError) as error:
            log(f"a hook was not served: {error}")
        except Exception:  # noqa: BLE001 - one session must not end the others
            log(traceback.format_exc())
        finally:
            self._ended()

    def _tell(self, connection: socket.socket, length: int) -> None:
        """Answer somebody who is no hook."""
        if length > MAX_QUESTION_BYTES:
            raise ValueError(f"its question has {length} bytes")
        word, _, address = _receive(connection, length).partition(b" ")
        question = Question(word)
        if question is Question.WORKED:
            self._worked(os.fsdecode(address))
        if question is Question.RETIRE:
            log("making room: we were asked to")
            self.retire()
            with self._changed:
                self._until_the_end.append(connection.dup())
        report = self._report()
        connection.sendall(LENGTH.pack(len(report)) + report)

    def _converse(self, connection: socket.socket, greeting: Greeting, root: str) -> None:
        """Serve a hook; without a status it answers Nix itself, since it knows what Nix waits for."""
        self.last_used = time.monotonic()
        connection.sendall(State.ANSWERED.value)
        with descriptors(connection) as (input_fd, output_fd, build_log_fd):
            connection.settimeout(None)
            status = self._serve(
                Caller(
                    input_fd=input_fd,
                    output_fd=output_fd,
                    build_log_fd=build_log_fd,
                    argument=greeting.argument,
                    environ=greeting.environ,
                    parent_pid=greeting.parent_pid,
                    hangup_fd=connection.fileno(),
                    root=root,
                    tell=lambda state: _send(connection, state.value),
                    take_back=lambda data: _send(connection, ALONE + LENGTH.pack(len(data)) + data),
                )
            )
        self.last_used = time.monotonic()
        _send(connection, STATUS + bytes([status & 0xFF]))


def _receive(connection: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes."""
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ValueError("its greeting ends in the middle")
        data += piece
    return bytes(data)


def _send(connection: socket.socket, data: bytes) -> None:
    # A hook that is gone is noticed by whoever waits for it next.
    with suppress(OSError):
        connection.sendall(data)
