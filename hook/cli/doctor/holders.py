"""Which processes hold the lock files in `current-load/`, as the kernel tells: no lock is taken to find out.

Tested in test_holders.py.
"""

import os
from collections.abc import Mapping
from contextlib import suppress

from hook.values.settings import parse_number


def holders(directory: str) -> dict[str, str]:
    """The files of `directory` that are locked, each with the process that holds it in words for the user."""
    try:
        inodes = {os.stat(os.path.join(directory, name)).st_ino: name for name in os.listdir(directory)}
    except FileNotFoundError:
        return {}
    found = {}
    for pid, inode in _locks():
        name = inodes.get(inode)
        # Files of other file systems may have the same number.
        if name is not None and _has_open(pid, os.path.join(directory, name)):
            found[name] = f"process {pid}, {_command(pid)}"
    return found


def slot_holders(held: Mapping[str, str], stem: str, max_jobs: int) -> list[str]:
    """Of what `holders` returns, the owners of the slots of one machine."""
    # Not slot by slot: a line may have more than can be counted.
    numbers = {name: name.removeprefix(f"{stem}-") for name in held if name.startswith(f"{stem}-")}
    return [held[name] for name, number in numbers.items() if parse_number(number, max_jobs - 1) is not None]


def _locks() -> list[tuple[int, int]]:
    """Process and inode of every flock(2) lock that is held."""
    with open("/proc/locks") as file:
        rows = [line.split()[1:] for line in file]
    # Who waits for a lock is listed behind an arrow.
    return [(int(row[3]), int(row[4].rpartition(":")[2])) for row in rows if row[0] == "FLOCK"]


def _has_open(pid: int, path: str) -> bool:
    # Processes and their descriptors come and go.
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if os.path.samefile(f"/proc/{pid}/fd/{descriptor}", path):
                    return True
    return False


def _command(pid: int) -> str:
    """What it runs, as somebody would look for it: an interpreter is left out."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = os.fsdecode(file.read()).rstrip("\0").split("\0")
    except OSError:
        words = [""]
    names = [os.path.basename(word) for word in words]
    if len(names) > 1 and names[0].startswith("python"):
        del names[0]
    return " ".join(names[:2]) or "which has ended"
