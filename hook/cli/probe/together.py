"""Ask machines something, all at once: each may take its time.  Tested in cli/probe/test_together.py."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Subject = TypeVar("Subject")
Found = TypeVar("Found")


def at_once(ask: Callable[[Subject], Found], subjects: Iterable[Subject]) -> list[Found]:
    """What `ask` finds out about each, in their order; the first error in that order, when all have ended."""
    asked = list(subjects)
    with ThreadPoolExecutor(max_workers=max(len(asked), 1)) as threads:
        return list(threads.map(ask, asked))
