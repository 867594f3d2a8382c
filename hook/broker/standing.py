"""Where a process stands, and which broker is for those who stand there; the rules are in native/shim/standing.h.

Tested in test_standing.py.
"""

import errno
import os
import socket
from contextlib import suppress

from hook._native import ffi, lib

NAMESPACES = ("mnt", "net", "user", "pid")
SOCKET = ".sock"
LOCK = ".lock"


def standing_of(pid: int) -> str | None:
    """The name of where process `pid` stands, 0 for this one; None if that cannot be seen."""
    name = ffi.new("uint32_t *")
    return f"{name[0]:08x}" if lib.find_standing(pid, name) else None


def socket_path(directory: str, standing: str) -> str:
    """Where the broker of those who stand there listens."""
    return os.path.join(directory, f"{standing}{SOCKET}")


def lock_path(directory: str, standing: str) -> str:
    """What that broker keeps locked."""
    return os.path.join(directory, f"{standing}{LOCK}")


def socket_paths(directory: str) -> list[str]:
    """Where brokers listen in `directory`, or have listened."""
    names: list[str] = []
    with suppress(OSError):
        names = sorted(os.listdir(directory))
    return [os.path.join(directory, name) for name in names if name.endswith(SOCKET)]


def listens(path: str) -> bool:
    """Whether somebody listens at the socket `path`; OSError if its directory cannot be opened."""
    directory, name = os.path.split(path)
    # By another name of the directory: there is little room in the address of a socket.
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            # One that has too much to do listens, too.
            return probe.connect_ex(f"/proc/self/fd/{fd}/{name}") in (0, errno.EAGAIN)
    finally:
        os.close(fd)


def same_namespaces(pid: int, other: int) -> bool | None:
    """Whether two processes are in the same namespaces of those that count; None if that cannot be seen."""
    try:
        return namespaces_of(pid) == namespaces_of(other)
    except OSError:
        return None


def namespaces_of(pid: int) -> list[str]:
    """The namespaces of those that count in which a process is; OSError if that cannot be seen."""
    return [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in NAMESPACES]
