"""The process that Nix started as its hook, as the code that serves it sees it.

Its descriptors, environment and parent, and whether it is still there.  Nix kills a hook without a warning when its
user gives up, so everything that waits on behalf of a caller waits through `wait_for` or watches `hangup_fd`.
Tested in test_caller.py.
"""

import os
import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from hook.errors import Cancelled

LOG_PATIENCE_S = 10.0
"""How long Nix may take to read the end of a build log: a pipe full."""


class Word(Enum):
    """What a shim is told; the values are the first bytes of messages (hook/broker/server.py)."""

    READY = b"h"
    KEEP = b"k"
    REPLY = b"r"
    ACCEPT = b"a"
    ALONE = b"n"
    STOCK = b"s"
    STATUS = b"x"


@dataclass(slots=True)
class Caller:
    """One hook process, started with `argument` as its last one.

    `hangup_fd` hangs up when the process is gone.  What Nix says comes from `input_fd`, and after its end from
    `rest_fd`.
    """

    input_fd: int
    output_fd: int
    build_log_fd: int
    argument: str
    environ: Mapping[str, str]
    parent_pid: int
    hangup_fd: int | None = None
    rest_fd: int | None = None
    root: str | None = None
    """The hook's root directory as seen from a broker, which may be in another mount namespace; None if it is ours."""
    tell: Callable[[Word, bytes], None] = lambda word, data: None
    accepted: bool = field(default=False, init=False)
    """Whether Nix was told that the build is ours."""
    successor: Word | None = field(default=None, init=False)
    """Who is to answer instead of us, ALONE or STOCK."""

    @property
    def verbosity(self) -> int | None:
        """The user's verbosity, which Nix passes as last argument; None if that is no number."""
        return int(self.argument) if self.argument.isdecimal() and self.argument.isascii() else None

    def sees(self, path: str) -> bool:
        """Whether the directory `path` is the same one for the hook as for us."""
        if self.root is None:
            return True
        try:
            return os.path.samefile(self.root + path, path)
        except OSError:
            return False

    def pause(self, seconds: float) -> None:
        """Do nothing for a while; Cancelled if the caller goes away meanwhile."""
        self.wait_for(None, seconds)

    def settle_log(self) -> None:
        """Wait until Nix has read what was written of the build's log: it drops what is left when the hook ends."""
        import fcntl
        import termios

        deadline = time.monotonic() + LOG_PATIENCE_S
        while time.monotonic() < deadline:
            try:
                unread = fcntl.ioctl(self.build_log_fd, termios.FIONREAD, bytes(4))
            except OSError:
                return  # not a pipe, so nothing waits in it
            if not any(unread):
                return
            self.pause(0.001)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes of what Nix says, none at the end; Cancelled if the caller goes away first."""
        while True:
            self.wait_for(self.input_fd, None)
            data = os.read(self.input_fd, size)
            if data or self.rest_fd is None:
                return data
            self.input_fd, self.rest_fd = self.rest_fd, None

    def wait_for_room(self, fd: int) -> None:
        """Wait until Nix has read some of what is in the pipe `fd`; Cancelled if the caller goes away first."""
        self.wait_for(fd, None, select.POLLOUT)

    def wait_for(self, fd: int | None, seconds: float | None, what: int = select.POLLIN) -> bool:
        """Whether `fd` became readable, or `what`, within `seconds`; Cancelled if the caller goes away meanwhile."""
        # select() takes no descriptor above 1023, and a broker may have more.
        poll = select.poll()
        if self.hangup_fd is not None:
            # Of a hangup alone poll() always tells.
            poll.register(self.hangup_fd, 0)
        if fd is not None:
            poll.register(fd, what)
        ready = dict(poll.poll(None if seconds is None else seconds * 1000))
        if self.hangup_fd is not None and ready.get(self.hangup_fd, 0) & ~select.POLLIN:
            raise Cancelled("Nix has given up this build")
        return bool(ready)


def wait_for_room(fd: int) -> None:
    """Wait until something can be written to `fd`."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()


def write_all(fd: int, data: bytes | memoryview, wait: Callable[[int], object] = wait_for_room) -> None:
    """Write everything, however the kernel splits it; `wait` until `fd`, if it does not wait itself, takes more."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            wait(fd)
