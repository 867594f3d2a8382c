"""The broker's own log: a file for the administrator, kept small.

It is the standard error of the broker, so that what Python or a library prints in distress ends up there, too.
Tested in broker/test_log.py.
"""

import os
import time
from contextlib import suppress

from hook.errors import printable
from hook.session.record import open_bounded

LOG_NAME = "broker.log"
LOG_BYTES = 1 << 20
"""A log larger than this is set aside as `broker.log.1`, in place of the one before."""


def log(text: str) -> None:
    """Write a line with the time; a full disk is no reason to stop working."""
    with suppress(OSError):
        # A stack trace has many lines, and what a machine said in the middle of one is not to drive a terminal.
        lines = "\n".join(map(printable, text.splitlines()))
        os.write(2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {lines}\n".encode())


def open_log(directory: str, log_bytes: int = LOG_BYTES) -> None:
    """Make `broker.log` our standard error."""
    fd = open_bounded(os.path.join(directory, LOG_NAME), log_bytes)
    os.dup2(fd, 2)
    os.close(fd)


def rotate_log(directory: str, log_bytes: int = LOG_BYTES) -> None:
    """Begin another file if the log has grown too large."""
    if os.fstat(2).st_size > log_bytes:
        open_log(directory, log_bytes)
