"""Path locks: one process at a time makes a store path.

The lock of a path is the file `<path>.lock` beside it, as in Nix.  The parent holds those of all outputs whose paths
are known before the build; the others are ours to take.  Whoever lets go of a lock deletes its file and leaves a byte
in it, which tells those who waited to open it anew.

Source: docs/protocols/local-store.md, "Path locks".  Tested in store/test_pathlocks.py, also against Nix.
"""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from hook.errors import StoreError

PATIENCE_S = 3600.0
"""How long to wait for one lock: its holder may be importing gigabytes."""

RETRY_S = 0.1

FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""A builder may have laid anything where the lock is to be: a link would have root make a file wherever it leads."""

NO_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV)
"""How opening a link, a directory, a socket or a device of nobody's fails."""


@contextmanager
def locked(
    real_paths: Iterable[str],
    on_wait: Callable[[str], object],
    *,
    patience_s: float = PATIENCE_S,
    pause: Callable[[float], object] = time.sleep,
) -> Iterator[None]:
    """Hold the locks of `real_paths`; `on_wait` is told about each that is not free at once.

    StoreError if a lock cannot be had within `patience_s`.
    """
    with ExitStack() as held:
        # Everybody takes several locks in this order, so that no two can wait for each other.
        for real_path in sorted(real_paths):
            fd = _acquire(real_path)
            if fd is None:
                on_wait(real_path)
                deadline = time.monotonic() + patience_s
                while (fd := _acquire(real_path)) is None:
                    if time.monotonic() >= deadline:
                        raise StoreError(f"cannot lock '{real_path}': another process has held it for {patience_s:g} s")
                    pause(RETRY_S)
            held.callback(_release, fd, real_path)
        yield


def _acquire(real_path: str) -> int | None:
    """A descriptor that holds the lock; None if somebody else does, or has just deleted the file."""
    try:
        fd = os.open(_lock_file(real_path), FLAGS, 0o600)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise _strange(real_path)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_size == 0:
                return fd
        except BlockingIOError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    except OSError as error:
        if error.errno in NO_FILE:
            raise _strange(real_path) from None
        raise StoreError(f"cannot lock '{real_path}': {error.strerror}") from error
    return None


def _strange(real_path: str) -> StoreError:
    return StoreError(f"cannot lock '{real_path}': '{_lock_file(real_path)}' is not a lock file of Nix; remove it")


def _release(fd: int, real_path: str) -> None:
    # What was made under the lock is done; a file that stays is taken over by the next one who needs it.
    with suppress(OSError):
        os.unlink(_lock_file(real_path))
        os.write(fd, b"d")
    os.close(fd)


def _lock_file(real_path: str) -> str:
    return f"{real_path}.lock"
