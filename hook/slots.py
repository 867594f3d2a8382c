"""The lock files in `current-load/`: a machine's slots, and one upload to a machine at a time.

Stock hooks use the same files, so both kinds of hook together keep to a machine's max jobs.  This is the only module
that calls flock(2).  Locks go with the open file: the kernel drops them when this process ends, however it ends, and
no child gets a copy.  The files are empty, never written and never deleted.

Source: machines.md section 4; tested in test_slots.py, also against locks held by other processes.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import TracebackType

from hook.errors import ConfigurationError

FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
"""Where others may write to the directory, a link would have us create files for them elsewhere."""

MAIN_LOCK = "main-lock"
"""Held while a hook chooses."""

FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 1.0


class NameTooLongError(ConfigurationError):
    """A machine's URI does not fit into a file name."""


class Slot:
    """One slot of a machine, held until `release`."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def touch(self) -> None:
        """Record now as the time of the slot's last use."""
        if self._fd is not None:
            os.utime(self._fd)

    def release(self) -> bool:
        """Give the slot up; harmless, and False, when done before."""
        if self._fd is None:
            return False
        os.close(self._fd)
        self._fd = None
        return True

    def __enter__(self) -> "Slot":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class SlotTable:
    """The locks of one local store, in `<state_dir>/current-load`.

    Every method raises ConfigurationError when a lock file cannot be opened or locked.
    """

    def __init__(self, state_dir: str) -> None:
        self._directory = os.path.join(state_dir, "current-load")

    @contextmanager
    def selection(self) -> Iterator[None]:
        """Hold the main lock, without which slots must not be probed.

        Waits for other hooks without a bound; they hold it only while they choose.
        """
        # What is wrong with the directory shows at the next line, with its name.
        with suppress(OSError):
            os.mkdir(self._directory)
        fd = self._open(MAIN_LOCK)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def probe(self, stem: str, max_jobs: int) -> tuple[Slot | None, int]:
        """Take the first free slot of a machine, and count those in use.

        Looks at every slot, since a busy one may follow a free one.
        """
        kept: Slot | None = None
        busy = 0
        try:
            for number in range(max_jobs):
                fd = self._lock_now(f"{stem}-{number}")
                if fd is None:
                    busy += 1
                elif kept is None:
                    kept = Slot(fd)
                else:
                    os.close(fd)
        except ConfigurationError:
            if kept is not None:
                kept.release()
            raise
        return kept, busy

    @contextmanager
    def upload_lock(
        self,
        uri: str,
        timeout_s: float,
        waiting: AbstractContextManager[object] | None = None,
        pause: Callable[[float], object] = time.sleep,
    ) -> Iterator[bool]:
        """Be the only hook that uploads to the machine with this rendered URI.

        Yields False when the lock could not be had within `timeout_s`: uploading twice is wasteful but not wrong.
        `waiting` is entered while waiting.
        """
        name, shorter = upload_lock_names(uri)
        with waiting or nullcontext():
            try:
                fd = self._lock_within(name, timeout_s, pause)
            except NameTooLongError:
                fd = self._lock_within(shorter, timeout_s, pause)
        try:
            yield fd is not None
        finally:
            if fd is not None:
                os.close(fd)

    def _lock_within(self, name: str, timeout_s: float, pause: Callable[[float], object]) -> int | None:
        """A descriptor that holds the lock, or None after pauses of `timeout_s` altogether.

        flock(2) itself cannot be given a time limit.
        """
        waited_s, pause_s = 0.0, FIRST_PAUSE_S
        while (fd := self._lock_now(name)) is None and waited_s < timeout_s:
            pause_s = min(pause_s, timeout_s - waited_s)
            pause(pause_s)
            waited_s += pause_s
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return fd

    def _lock_now(self, name: str) -> int | None:
        """A descriptor that holds the lock, or None if another one does."""
        fd = self._open(name)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except OSError as error:
            os.close(fd)
            raise self._refused(name, error) from None
        return fd

    def _open(self, name: str) -> int:
        try:
            return os.open(os.path.join(self._directory, name), FLAGS, 0o600)
        except OSError as error:
            raise self._refused(name, error) from None

    def _refused(self, name: str, error: OSError) -> ConfigurationError:
        kind = NameTooLongError if error.errno == errno.ENAMETOOLONG else ConfigurationError
        return kind(f"cannot lock '{name}' in '{self._directory}': {error.strerror}")


def upload_lock_names(uri: str) -> tuple[str, str]:
    """The file that is locked to upload to the machine with this rendered URI, and the one if that name is too long."""
    return f"{_escape(uri)}.upload-lock", f"{_escape(_digest(uri))}.upload-lock"


def _escape(name: str) -> str:
    return name.replace("/", "_")


def _digest(uri: str) -> str:
    """Stock's name for a machine whose URI is too long for a file name."""
    import base64
    import hashlib

    return base64.b64encode(hashlib.md5(os.fsencode(uri), usedforsecurity=False).digest()).decode()
