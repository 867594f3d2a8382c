"""A directory for files that must be somewhere and cannot be where they belong: it comes and goes with this process.

Tested in test_scratch.py.
"""

import threading

_lock = threading.Lock()
_made: list[str] = []


def scratch_directory() -> str:
    """The directory, which only this user can enter; OSError if there can be none."""
    with _lock:
        if not _made:
            import atexit
            import tempfile

            _made.append(tempfile.mkdtemp(prefix="nix-ferry-"))
            atexit.register(remove)
        return _made[0]


def remove() -> None:
    """Remove it now: a process that is killed has no other end."""
    with _lock:
        if _made:
            import shutil

            shutil.rmtree(_made.pop(), ignore_errors=True)
