"""The JSON log that Nix reads from its hook: one `@nix {…}` line a message.

Every call writes whole lines with one system call, so messages of several threads never mix.  Fields hold only strings
and non-negative integers: Nix aborts the user's command on anything else.

Source: docs/protocols/build-hook.md, "Log messages".  Tested in front/test_log.py.
"""

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from hook.front.caller import wait_for_room, write_all
from hook.protocol.activity import (
    ActivityResult,
    ActivityType,
    Field,
    LogEvent,
    LogMessage,
    ResultType,
    StartActivity,
    StopActivity,
    Verbosity,
)

if TYPE_CHECKING:
    from hook.protocol.loglines import LogLines

MAX_ACTIVITIES = 10_000
"""How many activities of one connection may go on at once; more are not shown."""

_ID_MASK = (1 << 64) - 1

_encode = json.JSONEncoder(separators=(",", ":")).encode


class Log:
    """Messages and activities for the user, written to `fd`; `wait` waits until it takes more.

    `build_log_bytes` is the size of all lines of build logs that were passed on.
    """

    def __init__(self, fd: int, verbosity: int, wait: Callable[[int], object] = wait_for_room) -> None:
        self.verbosity = verbosity
        self.build_log_bytes = 0
        self._fd = fd
        self._wait = wait
        # Ids need only be unique within one hook; starting from the process id keeps logs of several hooks readable.
        self._next_id = os.getpid() << 32
        self._lines: LogLines | None = None

    def message(self, level: int, text: str) -> None:
        """A line of text, dropped when `level` is above the user's verbosity."""
        if level <= self.verbosity:
            self._line({"action": "msg", "level": int(level), "msg": text})

    def error(self, text: str) -> None:
        """An error in Nix's own layout: a red `error:`, further lines indented below it."""
        first, *rest = text.splitlines() or [""]
        lines = [f"\x1b[31;1merror:\x1b[0m {first}".rstrip(), *(f"       {line}".rstrip() for line in rest)]
        self.message(Verbosity.ERROR, "\n".join(lines))

    def warning(self, text: str) -> None:
        """A warning in Nix's own layout: a magenta `warning:` before the text."""
        self.message(Verbosity.WARN, f"\x1b[35;1mwarning:\x1b[0m {text}")

    def start(self, level: int, kind: int, text: str, fields: tuple[str | int, ...] = ()) -> int:
        """Begin an activity; returns its id."""
        activity = self._new_id()
        self._start(activity, level, kind, text, list(fields))
        return activity

    def stop(self, activity: int) -> None:
        """End an activity."""
        self._line({"action": "stop", "id": activity})

    def result(self, activity: int, kind: int, *fields: str | int) -> None:
        """News from an activity."""
        self._line({"action": "result", "fields": list(fields), "id": activity, "type": int(kind)})

    def progress(self, activity: int, done: int, expected: int, running: int = 0, failed: int = 0) -> None:
        """How far an activity has come."""
        self.result(activity, ResultType.PROGRESS, done, expected, running, failed)

    def relay(self, ids: dict[int, int], event: LogEvent) -> None:
        """Pass on what a daemon said; `ids` maps its activity ids to ours and belongs to one connection."""
        match event:
            case LogMessage(text):
                self.message(Verbosity.ERROR, text.decode(errors="replace").rstrip())
            case StartActivity(remote, level, kind, text, fields):
                if remote in ids:
                    self.stop(ids.pop(remote))
                if len(ids) == MAX_ACTIVITIES:
                    return
                ids[remote] = self._new_id()
                self._start(ids[remote], level, kind, text.decode(errors="replace"), _plain(fields))
            case StopActivity(remote):
                if remote in ids:
                    self.stop(ids.pop(remote))
            case ActivityResult(remote, kind, fields):
                if kind == ResultType.BUILD_LOG_LINE:
                    self.build_log_bytes += sum(len(field) + 1 for field in fields if isinstance(field, bytes))
                if remote in ids:
                    self.result(ids[remote], kind, *_plain(fields))

    def relay_lines(self, ids: dict[int, int], activity: int, received: memoryview) -> int:
        """Pass on the lines of a build log that messages from a daemon start with; returns the size of these messages.

        The same as `relay` for each of them, but in one go.  Stops at whatever needs more than a look.
        """
        if activity not in ids:
            return 0
        if self._lines is None:
            # Loaded on first use: choosing a machine needs no C.
            from hook.protocol.loglines import LogLines

            self._lines = LogLines()
        line = _format({"action": "result", "fields": ["|"], "id": ids[activity], "type": ResultType.BUILD_LOG_LINE})
        before, _, after = line.partition(b"|")
        lines, size, text_bytes = self._lines.take(received, activity, before, after)
        self.build_log_bytes += text_bytes
        write_all(self._fd, lines, self._wait)
        return size

    def _start(self, activity: int, level: int, kind: int, text: str, fields: list[str | int]) -> None:
        line = {"action": "start", "id": activity, "level": level, "parent": 0, "text": text, "type": int(kind)}
        if fields:
            line["fields"] = fields
        self._line(line)

    def _new_id(self) -> int:
        self._next_id = self._next_id + 1 & _ID_MASK
        return self._next_id

    def _line(self, message: dict[str, object]) -> None:
        write_all(self._fd, _format(message), self._wait)


def _format(message: dict[str, object]) -> bytes:
    line = _encode(message)
    if "\\ud" in line:
        # Perhaps half of a character, which stands for a byte that is none: with that Nix would refuse the line.
        line = _encode({key: _whole(value) for key, value in message.items()})
    return b"@nix " + line.encode() + b"\n"


def _whole(value: object) -> object:
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else value


class Activity:
    """An activity that ends with its `with` block."""

    def __init__(self, log: Log, level: int, kind: ActivityType, text: str, *fields: str | int) -> None:
        self._log = log
        self.id = log.start(level, kind, text, fields)

    def __enter__(self) -> "Activity":
        return self

    def __exit__(self, *_: object) -> None:
        self._log.stop(self.id)


def step(log: Log, text: str) -> Activity:
    """What a build is at, shown at `-v`."""
    return Activity(log, Verbosity.TALKATIVE, ActivityType.UNKNOWN, text)


def _plain(fields: tuple[Field, ...]) -> list[str | int]:
    return [field if isinstance(field, int) else field.decode(errors="replace") for field in fields]
