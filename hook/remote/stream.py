"""Both directions of one connection to a remote end: exact reads, writes that cannot deadlock, a limit on silence.

The descriptors are pipes to an ssh or local child, or a socket.  One thread uses a Stream.  While it waits, for either
direction, it also collects what the child prints on standard error, and while it writes it keeps reading into its
buffer, so a peer that answers in the middle of an upload never blocks against us.  Memory: one fixed buffer and a short
tail of standard error, whatever the peer sends.  Tested in test_stream.py.
"""

import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from hook.errors import Cancelled, ConnectionLost, Trouble
from hook.front.caller import write_all

BUFFER_BYTES = 256 << 10
STDERR_TAIL_BYTES = 8 << 10
STDERR_AT_ONCE_BYTES = 1 << 20
"""At least what a pipe holds: all that was said before somebody asked is taken in, and a child that never stops talking
keeps nobody from noticing the rest of the world."""

LOOK_S = 0.25
"""How often somebody who never has to wait looks whether it is still wanted: each look costs other threads a moment."""

GIVEN_UP = "Nix has given up this build"

COLOURS = "\x1b[0123456789;m"
"""What may stand before `error:` where Nix writes for a terminal."""


class Stream:
    """Bytes from `read_fd` and to `write_fd`; owns and closes all descriptors given to it.

    `silence_s` bounds every single wait for the peer; None waits as long as the peer lives (a build may be silent
    for hours, and ssh's own keep-alive notices a dead link).  Every wait also ends, with Cancelled, when `hangup_fd`
    hangs up.  `watch` is called whenever something comes or is waited for: it says after how many seconds at most it
    wants to be called again, and ends whatever is going on by raising an error.  `heard` is called whenever something
    has come.
    """

    def __init__(self, read_fd: int, write_fd: int, stderr_fd: int | None, name: str) -> None:
        self.name = name
        self.silence_s: float | None = None
        self.hangup_fd: int | None = None
        self.watch: Callable[[], float | None] | None = None
        self.heard: Callable[[], object] | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self.bytes_copied = 0
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._stderr_fd = stderr_fd
        self._stderr = bytearray()
        self._stderr_copy_fd: int | None = None
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._pending = bytearray()
        self._eof = False
        self._next_look = 0.0
        for fd in (read_fd, write_fd, stderr_fd):
            if fd is not None:
                os.set_blocking(fd, False)

    @contextmanager
    def patience(self, silence_s: float | None) -> Iterator[None]:
        """Another limit on silence for as long as the block lasts."""
        before, self.silence_s = self.silence_s, silence_s
        try:
            yield
        finally:
            self.silence_s = before

    # Reading

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes; ConnectionLost when the peer ends before."""
        if self._end - self._start >= size:
            data = bytes(self._view[self._start : self._start + size])
            self._start += size
            return data
        parts = bytearray()
        while len(parts) < size:
            piece = self.available()[: size - len(parts)]
            parts += piece
            self.consume(len(piece))
        return bytes(parts)

    def available(self) -> memoryview:
        """At least one received byte, waiting for it if need be; valid until the next call on this object.

        Whatever was written is sent first: the peer may be waiting for it.  If it has gone, what it said before counts.
        """
        try:
            self.flush()
        except ConnectionLost as error:
            if error.trouble is not Trouble.LOST or not self.has_input():
                raise
            self._eof = True
        while self._start == self._end:
            if self._eof:
                raise ConnectionLost("unexpected end of file")
            if not self._receive():
                self._wait(reading=True, writing=False)
        return self._view[self._start : self._end]

    def consume(self, size: int) -> None:
        """Drop `size` bytes of what `available` or `peek` returned."""
        self._start += size

    def has_input(self) -> bool:
        """Whether the peer has sent something that is not consumed yet; never waits."""
        if self._start == self._end and not self._eof:
            self._receive()
        return self._start < self._end

    def peek(self) -> memoryview:
        """What has been received and not consumed, without waiting; valid until the next call on this object."""
        return self._view[self._start : self._end]

    # Writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes; they are sent by `flush`, by the next wait for input, or when enough have gathered."""
        if len(data) >= BUFFER_BYTES // 4:
            self.flush()
            self._send(memoryview(data))
        else:
            self._pending += data
            if len(self._pending) >= BUFFER_BYTES:
                self.flush()

    def flush(self) -> None:
        """Send what is queued."""
        if self._pending:
            pending, self._pending = self._pending, bytearray()
            self._send(memoryview(pending))

    def is_clean(self) -> bool:
        """Whether nothing is unread or unsent and the peer is there: the next request can only meet its own answer."""
        return not self.closed and not self._pending and not self.has_input() and not self._eof

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._read_fd < 0

    def copy_stderr(self, fd: int | None) -> None:
        """From now on pass on to `fd` whatever the child prints on standard error; None ends that.

        A build's log does not explain what becomes of the connection: of this text only errors of Nix are remembered.
        """
        self._collect_stderr()
        self._stderr.clear()
        self._stderr_copy_fd = fd

    def stderr_lines(self, settle_s: float = 0) -> list[str]:
        """The end of what the child printed on standard error, without blank lines.

        Waits up to `settle_s` for the child to close it: an error text may arrive after the end of its output.
        """
        deadline = time.monotonic() + settle_s
        while self._stderr_fd is not None and (left_s := deadline - time.monotonic()) > 0:
            if not _is_ready(self._stderr_fd, select.POLLIN, left_s):
                break
            self._collect_stderr()
        self._collect_stderr()
        lines = bytes(self._stderr).decode(errors="replace").splitlines()
        said = [stripped for line in lines if (stripped := line.strip())]
        if self._stderr_copy_fd is None:
            return said
        return [line for line in said if line.lstrip(COLOURS).startswith("error:")]

    def hang_up(self) -> None:
        """Have the peer see the end of the connection; only what the child says may still be read."""
        self.watch = None
        # Whoever was to get the last words may be gone.
        with suppress(OSError, Cancelled):
            self._collect_stderr()
        for fd in (self._read_fd, self._write_fd):
            if fd >= 0:
                os.close(fd)
        self._read_fd = self._write_fd = -1

    def drop_log(self, within_s: float) -> None:
        """Where the log of a build comes over standard error: read the rest for nobody, until it ends or time is up.

        A `nix-store --serve` that cannot write it does not notice that it is to end.  Nor does sshd end it, or close
        what it writes to, while the connection stays that is shared.
        """
        self._stderr_copy_fd, has_log = None, self._stderr_copy_fd is not None
        end = time.monotonic() + within_s
        while has_log and self._stderr_fd is not None and (left_s := end - time.monotonic()) > 0:
            if _is_ready(self._stderr_fd, select.POLLIN, left_s):
                self._collect_stderr()

    def close(self) -> None:
        """Close every descriptor; the peer sees the end of the connection."""
        self.hang_up()
        if self._stderr_fd is not None:
            os.close(self._stderr_fd)
            self._stderr_fd = None

    # One system call each

    def _receive(self) -> bool:
        """Read once without waiting; False when there was nothing."""
        # Here, too: a peer that sends without a pause is never waited for.
        if self.watch is not None:
            self.watch()
        if self.hangup_fd is not None and time.monotonic() > self._next_look:
            self._next_look = time.monotonic() + LOOK_S
            if _is_ready(self.hangup_fd, 0, 0):
                raise Cancelled(GIVEN_UP)
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == BUFFER_BYTES:
            self._compact()
        try:
            size = os.readv(self._read_fd, [self._view[self._end :]])
        except BlockingIOError:
            return False
        except ConnectionResetError:
            size = 0  # a socket whose peer ended with our last words unread
        if size == 0:
            self._eof = True
        elif self.heard is not None:
            self.heard()
        self._end += size
        self.bytes_in += size
        return True

    def _compact(self) -> None:
        rest = bytes(self._view[self._start : self._end])
        self._view[: len(rest)] = rest
        self._start, self._end = 0, len(rest)

    def _send(self, data: memoryview) -> None:
        while data:
            try:
                size = os.write(self._write_fd, data)
            except BlockingIOError:
                self._wait(reading=not self._eof and self._end - self._start < BUFFER_BYTES, writing=True)
                continue
            except BrokenPipeError:
                # As when reading: which of the two is noticed first is a matter of chance.
                raise ConnectionLost("unexpected end of file") from None
            self.bytes_out += size
            data = data[size:]

    def _wait(self, *, reading: bool, writing: bool) -> None:
        """Wait until something can move, and take in whatever the child said meanwhile."""
        poll = select.poll()
        if reading:
            poll.register(self._read_fd, select.POLLIN)
        if writing:
            poll.register(self._write_fd, select.POLLOUT)
        if self._stderr_fd is not None:
            poll.register(self._stderr_fd, select.POLLIN)
        if self.hangup_fd is not None:
            poll.register(self.hangup_fd, 0)
        watch_s = None if self.watch is None else self.watch()
        wait_s = min((limit for limit in (self.silence_s, watch_s) if limit is not None), default=None)
        ready = poll.poll(None if wait_s is None else wait_s * 1000)
        self._next_look = time.monotonic() + LOOK_S
        if not ready and wait_s == self.silence_s:
            raise ConnectionLost(f"no sign of life for {self.silence_s:g} s", Trouble.TIMED_OUT)
        for fd, _ in ready:
            if fd == self.hangup_fd:
                raise Cancelled(GIVEN_UP)
            if fd == self._stderr_fd:
                self._collect_stderr()
            elif fd == self._read_fd and writing:
                self._receive()

    def _wait_for_room(self, fd: int) -> None:
        """Wait until whoever gets the child's words has read some of them."""
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        if self.hangup_fd is not None:
            poll.register(self.hangup_fd, 0)
        if self.hangup_fd in [ready for ready, _ in poll.poll()]:
            raise Cancelled(GIVEN_UP)

    def _collect_stderr(self) -> None:
        left = STDERR_AT_ONCE_BYTES
        while self._stderr_fd is not None and left > 0:
            try:
                data = os.read(self._stderr_fd, STDERR_TAIL_BYTES)
            except BlockingIOError:
                return
            if not data:
                os.close(self._stderr_fd)
                self._stderr_fd = None
            if self._stderr_copy_fd is not None:
                write_all(self._stderr_copy_fd, data, self._wait_for_room)
                self.bytes_copied += len(data)
                if self.watch is not None:
                    self.watch()
            self._stderr += data
            del self._stderr[:-STDERR_TAIL_BYTES]
            left -= len(data)


def _is_ready(fd: int, events: int, within_s: float) -> bool:
    """Whether one of `events` is there in time, or the other end hangs up."""
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(within_s * 1000))
