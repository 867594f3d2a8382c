"""The broker: one process of a user that serves all hooks, and remembers between builds what a hook would forget.

It is for callers that stand where it does (standing.py), and serves no others, not even if they find it.

Each hook is the shim (native/shim), which speaks the same with a broker and with a process that serves it alone
(hook/broker/standalone.py).  It connects to its broker's socket in the private directory and sends a greeting: 8 bytes
`nixferry`, u32 length, then words, each ended by a NUL.  The first is the identity of the build that is installed,
empty if that is unknown; this much stays as it is for ever.  Then, in the format of messages described here, which is
`2`: the format, the hook's last argument, its parent's process id and its environment.

From then on the server's messages are a byte, u32 length and as many bytes:
    h  it will serve this hook.  The shim sends a byte of its own with its descriptors 0, 2 and 4, and then passes on
       whatever Nix says, keeping a copy; it ends its side of the connection when Nix has no more to say
    k  u32 count, bytes: these are to be kept in the place of the first `count` bytes, the settings
    r  u32 place, u32 count, text: the shim writes the text to Nix, and need not keep `count` bytes from `place` on
    a  text: the same, and the build is the server's.  The shim keeps and passes on nothing more; whatever Nix still
       says is to be read from its descriptor 0, after the end of what was passed on
    n  another process is to serve the hook, alone: it hears what was kept, and what comes
    s  Nix's own hook is to, in the same way
    x  status: the hook is to end with it
Log lines are written by the server, before it sends the reply that they belong to.

A server that ends before it has said `h` does not count: a shim looks for another broker, then runs the standalone
hook, then becomes Nix's own.  Later, but before `a` was carried out, it becomes Nix's own hook at once.  So whoever
serves does nothing before the accept that cannot be done twice.  When the shim is gone, its build is given up.

A shim may be older or newer than we are, since it lies outside of what is installed.  Whoever does not know the format
of a greeting hangs up.  An identity that is not ours means that something else was installed since: we make room.

Whoever asks how things are sends 8 bytes `ferryask`, u32 length and a Question; back come u32 length and what `report`
says, then the end.  After `retire` the end comes with that of the broker, which is when its last hook has been served.
After `worked` come a blank and the address of a machine that was found to work.

One thread a hook, blocking I/O.  A session that fails is logged and never takes the broker with it.  The broker ends
when it has had nothing to do for a while, or when a hook of another build wants its place; whoever has connected by
then is served.  Tested in broker/test_server.py.
"""

import fcntl
import os
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from enum import Enum

from hook.broker.identity import IDENTITY
from hook.broker.log import log
from hook.broker.serving import GREETING_TIMEOUT_S, LENGTH, MAGIC, Greeting, Serve, converse, receive, receive_header
from hook.broker.standing import LOCK, SOCKET, listens, lock_path, socket_path, socket_paths, standing_of

ASKING = b"ferryask"
MAX_QUESTION_BYTES = 64 << 10
IDLE_EXIT_S = 15 * 60.0
HOUSEKEEPING_S = 5.0
TAKEOVER_S = 10.0
"""How long a broker that has stopped listening may take to let go of the lock."""

TAKEOVER_RETRY_S = 0.01
CREDENTIALS = struct.Struct("3i")

Report = Callable[[], bytes]
"""Tells how things are."""


class Question(Enum):
    """What a broker can be asked."""

    STATUS = b"status"
    RETIRE = b"retire"
    WORKED = b"worked"


def check_peer(connection: socket.socket) -> int:
    """The process at the other end, 0 if it cannot be seen from here; PermissionError unless it is of our own user."""
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
                # One that leaves removes its socket before it lets go of the lock; whoever else has it may be there
                # only to remove what a dead one has left.
                if listens(self._path) or time.monotonic() > deadline:
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
                if not connection.recv(1, socket.MSG_PEEK):
                    # Somebody looked whether a broker is here, which is no event.
                    return
                magic, length = receive_header(connection)
                if magic == ASKING:
                    self._tell(connection, length)
                    return
                if magic != MAGIC:
                    raise ValueError("it is no nix-ferry-hook")
                # Outside of our pid namespace nobody has a number here but 0, by which `standing_of` means ourselves.
                if pid == 0 or standing_of(pid) != self._standing:
                    raise PermissionError("it stands elsewhere: in other namespaces, or with other rights")
                greeting = Greeting.receive(connection, length)
                if greeting.identity in ("", IDENTITY):
                    self.last_used = time.monotonic()
                    converse(connection, greeting, self._serve, f"/proc/{pid}/root")
                    self.last_used = time.monotonic()
                else:
                    log(f"making room for build '{greeting.identity}'")
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
        word, _, address = receive(connection, length).partition(b" ")
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
