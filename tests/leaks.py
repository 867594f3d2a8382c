"""What this process holds, so that a test can tell what was left behind.

Compared by what is held and never by how much: what an earlier test has left may go away at any time, and says nothing
about this one.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path


def descriptors() -> dict[int, str]:
    """This process's open descriptors, and what each leads to."""
    held = {}
    for fd in os.listdir("/proc/self/fd"):
        # The one that reads the list is gone by now.
        with contextlib.suppress(FileNotFoundError):
            held[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
    return held


def children() -> set[str]:
    """The processes that this thread has started and nobody has waited for."""
    return set(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())


@contextlib.contextmanager
def no_leaks() -> Iterator[None]:
    """Leaves no descriptor open that was not, and no child."""
    before, others = descriptors(), children()
    yield
    assert descriptors().items() <= before.items()
    assert children() <= others
