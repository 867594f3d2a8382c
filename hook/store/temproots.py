"""Temporary roots: keep the garbage collector away from paths that this process is about to make valid.

A root is a name in a file that its owner keeps locked.  A running collector has already read those files, so it is
told through its socket as well.  Every wait is bounded.  Tested against Nix's own collector in store/test_temproots.py.
"""

import fcntl
import itertools
import os
import select
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Lock

from hook.errors import StoreError

COLLECTOR_S = 600.0
"""How long a running collector may take to answer: it first finishes deleting what it is at."""

RETRY_S = 0.1
LOCK_ATTEMPTS = 100

# Collectors up to Nix 2.34 take the number that the name begins with for the owner's process id; what follows it they
# ignore.
_serials = itertools.count()


class TempRoots:
    """Temporary roots that end with `close` or with this process, which may have others as well.

    `pause` waits for as many seconds, and may raise an error to give up.
    """

    def __init__(
        self,
        state_dir: str,
        *,
        collector_s: float = COLLECTOR_S,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._state_dir = state_dir
        self._collector_s = collector_s
        self._pause = pause
        self._file = os.path.join(state_dir, "temproots", f"{os.getpid()}.{next(_serials)}")
        self._fd = -1
        self._paths: set[str] = set()

    def add(self, paths: Iterable[str]) -> None:
        """Root `paths`, valid or not; they are safe from now on.  StoreError if that cannot be done."""
        fresh = [path for path in paths if path not in self._paths]
        if not fresh:
            return
        try:
            if self._fd < 0:
                self._fd = _create_roots_file(self._file)
            self._publish(fresh)
        except OSError as error:
            raise StoreError(f"cannot protect '{fresh[0]}' from the garbage collector: {error}") from error
        self._paths.update(fresh)

    def close(self) -> None:
        """End the roots."""
        if self._fd >= 0:
            # What stays the next collector removes.
            with suppress(OSError):
                os.unlink(self._file)
            os.close(self._fd)
            self._fd = -1
        self._paths.clear()

    def _publish(self, paths: list[str]) -> None:
        content = b"".join(os.fsencode(path) + b"\0" for path in paths)
        lock_fd = os.open(os.path.join(self._state_dir, "gc.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            address = os.path.join(self._state_dir, "gc-socket", "socket")
            deadline = time.monotonic() + self._collector_s

            def wait(seconds: float) -> None:
                if time.monotonic() > deadline:
                    raise StoreError(f"cannot protect '{paths[0]}' from the running garbage collector: no answer")
                self._pause(seconds)

            while not _try_flock(lock_fd, fcntl.LOCK_SH):
                if _collector_at(address).tell(paths, wait):
                    break
                wait(RETRY_S)
            else:
                _forget_collector(address)
            # Written while the collector is kept from starting, or after it has answered.
            _write_all(self._fd, content)
        finally:
            os.close(lock_fd)


class _Collector:
    """The one connection of this process to the collectors of one store, kept for as long as one of them runs.

    A collector keeps its connections in a table by descriptor number, and takes a number that is used again too soon
    for a reason to abort (Nix 2.8 to 2.36): connections must be few and long, as stock's are.  They are used by one
    thread at a time, and a collector answers at once, unless it is deleting the very path.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = Lock()
        self._connection: socket.socket | None = None
        self._poll = select.poll()
        self._owed = 0
        """How many answers belong to somebody who has given up waiting."""

    def tell(self, paths: Iterable[str], wait: Callable[[float], object]) -> bool:
        """Whether a running collector has promised to spare `paths`; False if it is starting or ending.

        `wait` is called again and again meanwhile, with the seconds that may pass, and may raise an error.
        """
        while not self._lock.acquire(timeout=RETRY_S):
            wait(0)
        try:
            for path in paths:
                self._ask(os.fsencode(path) + b"\n", wait)
        except (BlockingIOError, ConnectionRefusedError, ConnectionResetError, BrokenPipeError, FileNotFoundError):
            self._hang_up()
            return False
        finally:
            self._lock.release()
        return True

    def close(self) -> None:
        """End the connection, unless somebody uses it, who will notice by himself that nobody is there any more."""
        if self._lock.acquire(blocking=False):
            self._hang_up()
            self._lock.release()

    def _ask(self, line: bytes, wait: Callable[[float], object]) -> None:
        if self._connection is None:
            self._connection = _connect(self._address)
            self._poll = select.poll()
            self._poll.register(self._connection, select.POLLIN)
        # A line is short, and none is sent before the one before it is answered.
        self._connection.sendall(line)
        self._owed += 1
        while self._owed:
            while not self._poll.poll(RETRY_S * 1000):
                wait(0)
            answers = self._connection.recv(self._owed)
            if answers.strip(b"1") or not answers:
                raise ConnectionResetError
            self._owed -= len(answers)

    def _hang_up(self) -> None:
        self._owed = 0
        if self._connection is not None:
            self._connection.close()
            self._connection = None


_collectors: dict[str, _Collector] = {}
"""Those that run, or did when they were last seen, by the address of their socket."""


def _collector_at(address: str) -> _Collector:
    return _collectors.get(address) or _collectors.setdefault(address, _Collector(address))


def _forget_collector(address: str) -> None:
    """None runs there now: what is left of the last one's connection is of no use."""
    if collector := _collectors.pop(address, None):
        collector.close()


def is_rooted(state_dir: str, path: str) -> bool:
    """Whether `path` is the temporary root that somebody added last."""
    directory, root = os.path.join(state_dir, "temproots"), os.fsencode(path) + b"\0"
    try:
        return any(_ends_with(os.path.join(directory, name), root) for name in os.listdir(directory))
    except FileNotFoundError:
        return False


def _ends_with(file: str, content: bytes) -> bool:
    # Files of other users, and of processes that have just ended, tell nothing.
    with suppress(FileNotFoundError, PermissionError), open(file, "rb") as roots:
        roots.seek(max(0, os.fstat(roots.fileno()).st_size - len(content)))
        return roots.read() == content
    return False


def _create_roots_file(path: str) -> int:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    for _ in range(LOCK_ATTEMPTS):
        # Whoever had this process id before is gone.
        with suppress(FileNotFoundError):
            os.unlink(path)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        # A collector that found the file unlocked has marked it as deleted by a byte.
        if os.fstat(fd).st_size == 0:
            return fd
        os.close(fd)
    raise StoreError(f"cannot create '{path}': it is deleted again and again")


def _try_flock(fd: int, operation: int) -> bool:
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _connect(address: str) -> socket.socket:
    """A connection to `address`, which may be too long for a socket; BlockingIOError if too many wait for one."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        try:
            connection.connect(address)
        except OSError as error:
            if error.errno is not None:
                raise
            directory = os.open(os.path.dirname(address), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                connection.connect(f"/proc/self/fd/{directory}/{os.path.basename(address)}")
            finally:
                os.close(directory)
    except OSError:
        connection.close()
        raise
    return connection


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
