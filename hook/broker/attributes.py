"""The attributes of a process that nobody has said anything about, for one that serves everybody.

Tested in broker/test_server.py, with the executable that needs them.
"""

import resource

from hook._native import lib

DESCRIPTORS = 1 << 20
"""As many as the daemon of Nix may have."""

LEFT_ALONE = ("RLIMIT_CORE", "RLIMIT_STACK")
"""Limits that do no harm, and are best not lifted."""


def become_neutral() -> None:
    """Reset what this process has of whoever started it, as far as that is permitted."""
    lib.make_neutral()
    for name in dir(resource):
        if name.startswith("RLIMIT_") and name not in LEFT_ALONE:
            _lift(getattr(resource, name))


def return_large_blocks() -> None:
    """Keep no memory for later that megabytes of a log or of an error took: they may never come again."""
    lib.return_large_blocks()


def allow_many_descriptors() -> None:
    """A build needs about a dozen, and the usual limit is meant for one process a build."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_less(hard, DESCRIPTORS), hard))


def _lift(limit: int) -> None:
    """Have the limit of the first process, which is nobody's in particular; a caller's was meant for that caller."""
    _, hard = resource.getrlimit(limit)
    try:
        usual = resource.prlimit(1, limit)
    except OSError:
        usual = hard, hard
    try:
        resource.setrlimit(limit, usual)
    except (OSError, ValueError):
        resource.setrlimit(limit, (_less(usual[0], hard), hard))


def _less(limit: int, other: int) -> int:
    return min((limit, other), key=lambda each: float("inf") if each == resource.RLIM_INFINITY else each)
