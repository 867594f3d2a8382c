"""What a daemon or a hook says while it works: log lines, activities and their results.

Values only.  Numbers are Nix's own (`Verbosity`, `ActivityType`, `ResultType` in its logging interface) and go over
the worker protocol and the JSON log alike.  Tested in protocol/test_recordings.py.
"""

from dataclasses import dataclass
from enum import IntEnum

Field = int | bytes
"""A field of an activity or result: an unsigned integer, or a string that need not be UTF-8."""


class Verbosity(IntEnum):
    """Levels of `-v`; a message is shown when its level is not above the user's."""

    ERROR = 0
    WARN = 1
    NOTICE = 2
    INFO = 3
    TALKATIVE = 4
    CHATTY = 5
    DEBUG = 6
    VOMIT = 7


class ActivityType(IntEnum):
    """The activities nix-ferry starts itself; others are relayed by number."""

    UNKNOWN = 0
    COPY_PATH = 100
    COPY_PATHS = 103
    BUILD = 105


class ResultType(IntEnum):
    """The results nix-ferry reports itself; others are relayed by number."""

    BUILD_LOG_LINE = 101
    PROGRESS = 105
    SET_EXPECTED = 106


@dataclass(frozen=True, slots=True)
class LogMessage:
    """A line of text for the user."""

    text: bytes


@dataclass(frozen=True, slots=True)
class StartActivity:
    """Something began; `id` is unique on its connection only."""

    id: int
    level: int
    type: int
    text: bytes
    fields: tuple[Field, ...]
    parent: int


@dataclass(frozen=True, slots=True)
class StopActivity:
    """The activity `id` ended."""

    id: int


@dataclass(frozen=True, slots=True)
class ActivityResult:
    """News from the activity `id`, for example one line of a build log."""

    id: int
    type: int
    fields: tuple[Field, ...]


LogEvent = LogMessage | StartActivity | StopActivity | ActivityResult
