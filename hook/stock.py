"""Hand a conversation to Nix's own build hook, whole.

Whatever nix-ferry does not handle reaches the stock hook as if Nix had started it: same settings, same request, same
descriptors.  From then on this process only passes on what Nix still has to say.  The stock hook is the parent's own
executable under the name `build-remote`, which every release since 2.0 answers to.  Only for a process that Nix started
itself: the descriptors are this process's own.
"""

import os
import select
import signal

from hook._native import lib
from hook.caller import State
from hook.errors import EXIT_FAILED
from hook.front import Front, format_request, format_settings
from hook.program import find_nix
from hook.schedule import Request
from hook.settings import Settings

CHUNK_BYTES = 64 << 10


def hand_over(front: Front, settings: Settings, request: Request) -> int:
    """Let the stock hook answer `request` and all that follow; returns its exit status."""
    executable = find_nix(os.getppid(), os.environ)
    if executable is None:
        front.log.error("cannot find the stock build hook: the parent process is not Nix, and 'nix' is not in PATH")
        front.decline_permanently()
        return EXIT_FAILED
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:
        _become(executable, read_fd, front.log.verbosity)
    os.close(read_fd)
    front.caller.enter(State.ANSWERED)
    replay = format_settings(settings) + format_request(request) + front.take_rest()
    return _relay(child, write_fd, replay)


def _become(executable: str, stdin_fd: int, verbosity: int) -> None:
    """Replace this forked process by the stock hook."""
    try:
        os.dup2(stdin_fd, 0)
        lib.set_pdeathsig(signal.SIGKILL)
        os.execv(executable, ["build-remote", str(verbosity)])
    finally:
        os._exit(127)


def _relay(child: int, write_fd: int, data: bytes) -> int:
    """Feed the child `data` and then our standard input, until it exits."""
    child_fd = os.pidfd_open(child)
    poll = select.poll()
    poll.register(child_fd, select.POLLIN)
    poll.register(0, select.POLLIN)
    try:
        while True:
            try:
                while data:
                    data = data[os.write(write_fd, data) :]
            except BrokenPipeError:
                poll.unregister(0)
                break
            ready = {fd for fd, _ in poll.poll()}
            if child_fd in ready:
                break
            data = os.read(0, CHUNK_BYTES)
            if not data:
                break
    finally:
        os.close(write_fd)
        os.close(child_fd)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
