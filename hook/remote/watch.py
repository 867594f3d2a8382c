"""What looks at a connection while it is waited for: limits of the user, and the time that a machine has.

The limits that the user sets for a build are kept here if the machine does not keep them.  It is told about them and
ends the build itself, which is better: it knows when the build began and hears half a line, too.  But it may ignore
them, pass the build on to one that does, or hang.  Tested in remote/test_watch.py and test_stream.py.
"""

import time
from collections.abc import Callable

from hook.errors import BuildFailed, ConnectionLost, Trouble
from hook.values.limits import Limits

GRACE_S = 5.0
GRACE_BYTES = 64 << 10
"""By how much a build may exceed its limits before it is ended here: for the machine to do it, and to say so."""


class Watch:
    """One build under `limits` that begins now; `output` returns how many bytes of its log have come so far.

    Call it whenever there is a chance.
    """

    def __init__(
        self, name: str, limits: Limits, output: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._limits = limits
        self._output = output
        self._clock = clock
        self._start = self._last = clock()
        self._before = self._seen = output()

    def __call__(self) -> float | None:
        """After how many seconds the build must be looked at again; BuildFailed, in stock's words, if it is over."""
        limits, now, seen = self._limits, self._clock(), self._output()
        if seen != self._seen:
            self._last, self._seen = now, seen
        if limits.max_log_bytes and seen - self._before > limits.max_log_bytes + GRACE_BYTES:
            text = f"killed after writing more than {limits.max_log_bytes} bytes of log output"
            raise BuildFailed(f"{self._name} {text}")
        left = []
        for allowed_s, since, what in (
            (limits.max_silent_time_s, self._last, " of silence"),
            (limits.timeout_s, self._start, ""),
        ):
            if allowed_s:
                left.append(since + allowed_s + GRACE_S - now)
                if left[-1] <= 0:
                    raise BuildFailed(f"{self._name} timed out after {allowed_s} seconds{what}")
        return min(left, default=None)


class Deadline:
    """A machine has `seconds` from now on to get ready, whatever it says meanwhile; to be the `watch` of a Stream."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def __call__(self) -> float:
        """How many seconds are left; ConnectionLost if none are."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise ConnectionLost(f"not ready after {self._seconds:g} s", Trouble.TIMED_OUT)
        return left
