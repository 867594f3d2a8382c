"""The lock files in `current-load/`: a machine's slots, and one upload to a machine at a time.

Stock hooks use the same files, so both kinds of hook together keep to a machine's max jobs.  Locks go
with the open file: the kernel drops them when this process ends, however it ends, and no child gets a copy.  The files
are empty, never written and never deleted.

Source: docs/protocols/machines.md, "Slots".  Tested in test_slots.py, also against locks held by other processes.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from types import TracebackType

from hook.errors import ConfigurationError

FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
"""Where others may write to the directory, a link would have us create files for them elsewhere."""

MAIN_LOCK = "main-lock"
"""Held while a hook chooses."""

MOST_SLOTS = 4096
"""More of one machine are not looked at: a line may promise four thousand million, and each is a file."""

GAP = 64
"""So many slots in a row without a file end the search.  Files are made from the first slot on, so none is behind."""

CHOOSING_PAUSE_S = 0.02
"""The longest pause between two tries of the main lock, which others hold for a millisecond."""

LOOK_PATIENCE_S = 10.0
"""How long somebody who only looks waits for those who choose."""

FIRST_PAUSE_S = 0.01
LONGEST_PAUSE_S = 1.0


class NameTooLongError(ConfigurationError):
    """A machine's URI does not fit into a file name."""


class BusyError(ConfigurationError):
    """Other hooks have held the main lock for too long."""


class Slot:
    """One slot of a machine, held until `release`."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    @property
    def is_held(self) -> bool:
        """Whether it was not released yet."""
        return self._fd is not None

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
    def selection(
        self, pause: Callable[[float], object] = time.sleep, patience_s: float | None = None
    ) -> Iterator[None]:
        """Hold the main lock, without which slots must not be probed.

        Others hold it only while they choose; BusyError if it is not to be had with pauses of `patience_s` altogether.
        """
        # What is wrong with the directory shows at the next line, with its name.
        with suppress(OSError):
            os.mkdir(self._directory, 0o755)
        with self._choosing(self._open(MAIN_LOCK, os.O_CREAT), pause, patience_s):
            yield

    @contextmanager
    def _choosing(self, fd: int, pause: Callable[[float], object], patience_s: float | None) -> Iterator[None]:
        try:
            waited_s, pause_s = 0.0, 0.001
            while not self._lock(fd, MAIN_LOCK):
                if patience_s is not None and waited_s >= patience_s:
                    raise BusyError(f"another hook has held '{MAIN_LOCK}' in '{self._directory}' for {patience_s:g} s")
                # Not a lock that waits: whoever waits looks at its caller, too.
                pause(pause_s)
                waited_s += pause_s
                pause_s = min(2 * pause_s, CHOOSING_PAUSE_S)
            yield
        finally:
            os.close(fd)

    def probe(self, stem: str, max_jobs: int, look: Callable[[], object] = lambda: None) -> tuple[Slot | None, int]:
        """Take the first free slot of a machine, and count those in use; of many, `look` is called now and then.

        Looks at every slot that has a file, since a busy one may follow a free one.  A slot without one is free.
        """
        with ExitStack() as held:
            kept: Slot | None = None
            busy = 0
            for name, fd in self._files(stem, max_jobs, look):
                if fd is None:
                    if kept is not None:
                        continue
                    fd = self._open(name, os.O_CREAT)  # noqa: PLW2901 - as if it had been there
                if not self._has_locked(fd, name):
                    busy += 1
                elif kept is None:
                    kept = held.enter_context(Slot(fd))
                else:
                    os.close(fd)
            held.pop_all()
            return kept, busy

    def busy(self, stem: str, max_jobs: int, patience_s: float = LOOK_PATIENCE_S) -> int:
        """How many slots of a machine are in use.  Only looks: what no hook has made is not made for that."""
        main = self._existing(MAIN_LOCK)
        with nullcontext() if main is None else self._choosing(main, time.sleep, patience_s):
            busy = 0
            for name, fd in self._files(stem, max_jobs, lambda: None):
                if fd is None:
                    continue
                if self._has_locked(fd, name):
                    os.close(fd)
                else:
                    busy += 1
            return busy

    def _files(self, stem: str, max_jobs: int, look: Callable[[], object]) -> Iterator[tuple[str, int | None]]:
        """The slots of a machine as far as they matter, each with its file, opened, if it has one."""
        missing = 0
        for number in range(min(max_jobs, MOST_SLOTS)):
            name = f"{stem}-{number}"
            fd = self._existing(name)
            missing = 0 if fd is not None else missing + 1
            yield name, fd
            if missing == GAP:
                return
            if number % GAP == GAP - 1:
                look()

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
        fd = self._open(name, os.O_CREAT)
        return fd if self._has_locked(fd, name) else None

    def _has_locked(self, fd: int, name: str) -> bool:
        """Whether `fd` holds the lock now; it is closed if not."""
        locked = False
        try:
            locked = self._lock(fd, name)
        finally:
            if not locked:
                os.close(fd)
        return locked

    def _lock(self, fd: int, name: str) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._refused(name, error) from None
        return True

    def _existing(self, name: str) -> int | None:
        """A descriptor of a file, or None if there is none."""
        try:
            return os.open(os.path.join(self._directory, name), FLAGS)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refused(name, error) from None

    def _open(self, name: str, more_flags: int) -> int:
        try:
            return os.open(os.path.join(self._directory, name), FLAGS | more_flags, 0o600)
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
