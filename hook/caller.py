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


class State(Enum):
    """What Nix is waiting for; the values are the bytes by which the broker tells the shim."""

    QUESTION = b"q"
    ANSWERED = b"a"
    BUILDING = b"b"


@dataclass(slots=True)
class Caller:
    """One hook process, started with `argument` as its last one.

    `hangup_fd` becomes readable when the process is gone; None if that is this very process.  `tell` is called whenever
    `state` changes.
    """

    input_fd: int
    output_fd: int
    build_log_fd: int
    argument: str
    environ: Mapping[str, str]
    parent_pid: int
    hangup_fd: int | None = None
    root: str | None = None
    """The hook's root directory as seen from here, which may be in another mount namespace; None for this process."""
    tell: Callable[[State], None] = lambda state: None
    take_back: Callable[[bytes], None] | None = None
    """Have the caller go on alone, as if Nix sent these bytes and then what is still unread; None for this process."""
    state: State = field(default=State.ANSWERED, init=False)

    @classmethod
    def of_this_process(cls, argument: str) -> "Caller":
        """This process, started by Nix."""
        return cls(0, 2, 4, argument, os.environ, os.getppid())

    @property
    def verbosity(self) -> int | None:
        """The user's verbosity, which Nix passes as last argument; None if that is no number."""
        return int(self.argument) if self.argument.isdecimal() and self.argument.isascii() else None

    def enter(self, state: State) -> None:
        """Note what Nix is waiting for now."""
        if state is not self.state:
            self.state = state
            self.tell(state)

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

    def wait_for_input(self) -> None:
        """Wait until Nix has sent something or closed its end; Cancelled if the caller goes away first."""
        self.wait_for(self.input_fd, None)
        # Said before anything is read: from here on only we can answer, or somebody who knows that we did not.
        if self.state is State.ANSWERED:
            self.enter(State.QUESTION)

    def wait_for_room(self, fd: int) -> None:
        """Wait until Nix has read some of what is in the pipe `fd`; Cancelled if the caller goes away first."""
        self.wait_for(fd, None, select.POLLOUT)

    def wait_for(self, fd: int | None, seconds: float | None, what: int = select.POLLIN) -> bool:
        """Whether `fd` became readable, or `what`, within `seconds`; Cancelled if the caller goes away meanwhile."""
        # select() takes no descriptor above 1023, and a broker may have more.
        poll = select.poll()
        if fd is not None:
            poll.register(fd, what)
        if self.hangup_fd is not None:
            poll.register(self.hangup_fd, select.POLLIN)
        ready = [found for found, _ in poll.poll(None if seconds is None else seconds * 1000)]
        if self.hangup_fd in ready:
            raise Cancelled("Nix has given up this build")
        return bool(ready)
