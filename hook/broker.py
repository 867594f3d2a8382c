"""The broker: one process of a user that serves all hooks, and remembers between builds what a hook would forget.

Each hook is the shim (native/shim.c).  It connects to `broker.sock` in the private directory and sends, with its
descriptors 0, 2 and 4: 8 bytes `nixferry`, u32 length, then its version, last argument, parent's process id and
environment, each ended by a NUL.  Back come single bytes: a State whenever what Nix waits for changes; `r` if this
broker is of another version and leaving; at the end `x` and the exit status, or `s`, u32 length and that many bytes:
the shim goes on alone, as if Nix had sent these bytes and then what is still to be read.  When the shim's end closes,
its build is given up.

One thread a hook, blocking I/O.  A session that fails is logged and never takes the broker with it.  The broker ends
when it has had nothing to do for a while; it leaves nothing behind that the next one could trip over.
"""

import array
import fcntl
import os
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

import hook
from hook.caller import Caller
from hook.errors import EXIT_FAILED

MAGIC = b"nixferry"
MAX_GREETING_BYTES = 64 << 20
GREETING_TIMEOUT_S = 10.0
IDLE_EXIT_S = 15 * 60.0
HOUSEKEEPING_S = 5.0
LOG_BYTES = 1 << 20
RETIRED = b"r"
ALONE = b"s"
STATUS = b"x"
CREDENTIALS = struct.Struct("3i")

Serve = Callable[[Caller], int]
"""Serves one hook and returns its exit status."""


class Greeting:
    """What a shim sends before anything else."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.fds: list[int] = []
        header = self._receive(len(MAGIC) + 4)
        if not header.startswith(MAGIC):
            raise ValueError("not a nix-ferry hook")
        (length,) = struct.unpack("<I", header[len(MAGIC) :])
        if length > MAX_GREETING_BYTES:
            raise ValueError(f"greeting of {length} bytes")
        words = self._receive(length).split(b"\0")
        self.version, self.argument, self.parent_pid = words[0].decode(), os.fsdecode(words[1]), int(words[2])
        entries = (os.fsdecode(word).partition("=") for word in words[3:-1])
        self.environ = {name: value for name, found, value in entries if found}
        if len(self.fds) != 3:
            raise ValueError(f"{len(self.fds)} descriptors")

    def _receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece, ancillary, _, _ = self._connection.recvmsg(size - len(data), socket.CMSG_SPACE(3 * 4))
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self.fds += array.array("i", content[: len(content) // 4 * 4])
            if not piece:
                raise ValueError("the greeting ends in the middle")
            data += piece
        return bytes(data)

    def close(self) -> None:
        """Close the descriptors that came with it."""
        for fd in self.fds:
            os.close(fd)


class Broker:
    """Listens in `directory`, which is ours alone, and serves every hook in a thread of its own."""

    def __init__(
        self, directory: str, serve: Serve, tidy: Callable[[], None], idle_exit_s: float = IDLE_EXIT_S
    ) -> None:
        self._directory = directory
        self._serve = serve
        self._tidy = tidy
        self._idle_exit_s = idle_exit_s
        self._lock = threading.Lock()
        self._sessions = 0
        self._last_used = time.monotonic()
        self._retiring = False

    def listen(self) -> bool:
        """Begin to listen; False if another broker does already."""
        lock = os.path.join(self._directory, "broker.lock")
        self._lock_fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_fd)
            return False
        self._path = os.path.join(self._directory, "broker.sock")
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(self._path)
        self._inode = os.stat(self._path).st_ino
        self._socket.listen(1024)
        self._socket.settimeout(HOUSEKEEPING_S)
        return True

    def run(self) -> None:
        """Serve until idle for long, or retired and done."""
        while not self._finished():
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                self._tidy()
                self._retiring = self._retiring or not self._is_reachable()
                continue
            except OSError:
                if not self._retiring:
                    raise
                time.sleep(HOUSEKEEPING_S)
                continue
            with self._lock:
                self._sessions += 1
            threading.Thread(target=self._session, args=(connection,), daemon=True).start()
        self._stop_listening()

    def _finished(self) -> bool:
        with self._lock:
            idle = self._sessions == 0
            return idle and (self._retiring or time.monotonic() - self._last_used > self._idle_exit_s)

    def _is_reachable(self) -> bool:
        """Whether our socket is still where hooks look for it; another broker's may be, if somebody removed ours."""
        try:
            return os.stat(self._path).st_ino == self._inode
        except OSError:
            return False

    def _stop_listening(self) -> None:
        """Make room for another broker; hooks that are connected stay."""
        with self._lock:
            if self._lock_fd >= 0:
                if self._is_reachable():
                    os.unlink(self._path)
                self._socket.close()
                os.close(self._lock_fd)
                self._lock_fd = -1

    def _session(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(GREETING_TIMEOUT_S)
                self._receive_hook(connection)
        except (OSError, ValueError, UnicodeDecodeError) as error:
            log(f"a hook was not served: {error}")
        finally:
            with self._lock:
                self._sessions -= 1
                self._last_used = time.monotonic()

    def _receive_hook(self, connection: socket.socket) -> None:
        _, uid, _ = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
        if uid != os.geteuid():
            raise ValueError(f"it belongs to user {uid}")
        greeting = Greeting(connection)
        connection.settimeout(None)
        if greeting.version != hook.__version__:
            log(f"retiring in favour of version {greeting.version}")
            greeting.close()
            self._retiring = True
            self._stop_listening()
            connection.sendall(RETIRED)
            return
        input_fd, output_fd, build_log_fd = greeting.fds
        caller = Caller(
            input_fd=input_fd,
            output_fd=output_fd,
            build_log_fd=build_log_fd,
            argument=greeting.argument,
            environ=greeting.environ,
            parent_pid=greeting.parent_pid,
            hangup_fd=connection.fileno(),
            tell=lambda state: _send(connection, state.value),
            take_back=lambda data: _send(connection, ALONE + struct.pack("<I", len(data)) + data),
        )
        status = EXIT_FAILED
        try:
            status = self._serve(caller)
        except Exception:  # noqa: BLE001 - one session must not end the others
            log(traceback.format_exc())
        finally:
            # Nix regards the hook as finished when the last copy of its pipe is closed; the shim holds the last one.
            greeting.close()
        _send(connection, STATUS + bytes([status & 0xFF]))


def _send(connection: socket.socket, data: bytes) -> None:
    # A hook that is gone is noticed by whoever waits for it next.
    with suppress(OSError):
        connection.sendall(data)


def log(text: str) -> None:
    """A line for the administrator; standard error is the broker's own log file."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, file=sys.stderr, flush=True)


def open_log(directory: str) -> None:
    """Make `broker.log` our standard error, keeping one older file."""
    path = os.path.join(directory, "broker.log")
    try:
        if os.stat(path).st_size > LOG_BYTES:
            os.replace(path, path + ".1")
    except FileNotFoundError:
        pass
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.dup2(fd, 2)
    os.close(fd)
