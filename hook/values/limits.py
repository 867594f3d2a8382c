"""The limits that the user sets for a build.  Pure.  Tested in remote/test_watch.py."""

from dataclasses import dataclass

from hook.values.settings import Settings


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user allows a build; 0 stands for no limit."""

    max_silent_time_s: int = 0
    timeout_s: int = 0
    max_log_bytes: int = 0
    keep_failed: bool = False


def limits_of(settings: Settings) -> Limits:
    """What the user allows a build.  The parent does not enforce it on a hook; the builder does."""
    return Limits(
        max_silent_time_s=settings.number("max-silent-time", 0),
        timeout_s=settings.number("timeout", 0),
        max_log_bytes=settings.number("max-build-log-size", 0),
        keep_failed=settings.flag("keep-failed", False),
    )
