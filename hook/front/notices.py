"""Say a thing once per Nix command, or once a minute, though that command starts a hook for every build.

A notice is a file named by the command's process and the text, in the private state directory.  It is made with
O_EXCL, so of several hooks exactly one speaks; files of earlier days are removed when the next one is made.
"""

import os
import time

KEPT_S = 24 * 60 * 60
MOST_KEPT = 4096
"""Of more than these, some are said again."""


class Notices:
    """What was already said to the command whose process is `parent`."""

    def __init__(self, private_dir: str, parent: int) -> None:
        self._directory = os.path.join(private_dir, "notices")
        self._parent = parent
        self._command = ""
        """Which one that is; only known when there is something to say, which is seldom."""

    def first_time(self, text: str, again_after_s: float = float("inf")) -> bool:
        """Whether `text` is new to this command, or so long ago; if that cannot be remembered, it always is."""
        import hashlib

        self._command = self._command or f"{self._parent}-{_start_time(self._parent)}"
        digest = hashlib.sha256(f"{self._command}\n{text}".encode(errors="surrogateescape")).hexdigest()[:32]
        path = os.path.join(self._directory, digest)
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            self._remove_stale()
        except FileExistsError:
            return self._is_due(path, again_after_s)
        except OSError:
            return True
        return True

    def _is_due(self, path: str, after_s: float) -> bool:
        # Two hooks that look at the same moment may both speak.
        try:
            due = os.stat(path).st_mtime < time.time() - after_s
            if due:
                os.utime(path)
        except OSError:
            return True
        return due

    def _remove_stale(self) -> None:
        oldest = time.time() - KEPT_S
        with os.scandir(self._directory) as entries:
            for number, entry in enumerate(entries):
                if number >= MOST_KEPT or entry.stat(follow_symlinks=False).st_mtime < oldest:
                    os.unlink(entry.path)


def _start_time(pid: int) -> str:
    """When the process started, in clock ticks: tells it from a later one with the same id."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The second field, the command's name, is in parentheses and may contain anything; the start is field 22.
            return file.read().rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return ""
