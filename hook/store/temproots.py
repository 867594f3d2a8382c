"""Temporary roots: keep the garbage collector away from paths that this process is about to make valid.

A root is a name in a file that its owner keeps locked.  A running collector has already read those files, so it is
told through its socket as well.  Every wait is bounded.  Tested against Nix's own collector in test_store_temproots.py.
"""

import fcntl
import itertools
import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress

from hook.errors import StoreError

COLLECTOR_S = 600.0
"""How long a running collector may take to answer: it first finishes deleting what it is at."""

RETRY_S = 0.1
LOCK_ATTEMPTS = 100

# Collectors up to Nix 2.34 take the number that the name begins with for the owner's process id; what follows it they
# ignore.
_serials = itertools.count()


class TempRoots:
    """Temporary roots that end with `close` or with this process, which may have others as well."""

    def __init__(self, state_dir: str, *, collector_s: float = COLLECTOR_S) -> None:
        self._state_dir = state_dir
        self._collector_s = collector_s
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
            deadline = time.monotonic() + self._collector_s
            while not _try_flock(lock_fd, fcntl.LOCK_SH) and not self._tell_collector(paths):
                if time.monotonic() > deadline:
                    raise StoreError(f"cannot protect '{paths[0]}' from the running garbage collector: no answer")
                time.sleep(RETRY_S)
            # Written while the collector is kept from starting, or after it has answered.
            _write_all(self._fd, content)
        finally:
            os.close(lock_fd)

    def _tell_collector(self, paths: list[str]) -> bool:
        """Whether a running collector has promised to spare `paths`; False if it is starting or ending."""
        address = os.path.join(self._state_dir, "gc-socket", "socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(self._collector_s)
            try:
                _connect(connection, address)
                for path in paths:
                    connection.sendall(os.fsencode(path) + b"\n")
                    if connection.recv(1) != b"1":
                        return False
            except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError, FileNotFoundError):
                return False
        return True


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


def _connect(connection: socket.socket, address: str) -> None:
    """Connect, also to an address too long for a socket."""
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


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
