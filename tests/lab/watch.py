"""Follow a remote build by the JSON log that Nix writes with `--log-format internal-json`.

Pure: lines and times go in, finished builds come out.  Tested by test_watch.py.
"""

import json
from collections import Counter
from dataclasses import dataclass

from hook.protocol.activity import ActivityType, ResultType

PREFIX = "@nix "


@dataclass(frozen=True)
class Build:
    """One derivation that was built elsewhere; times are in seconds."""

    drv: str
    machine: str
    started: float
    ended: float


class Watch:
    """What happened so far.

    `up` and `down` are NAR bytes by machine URI; `errors` are the texts of error messages.
    """

    def __init__(self) -> None:
        self.up: Counter[str] = Counter()
        self.down: Counter[str] = Counter()
        self.errors: list[str] = []
        self._builds: dict[int, tuple[str, str, float]] = {}
        self._copies: dict[int, tuple[str, Counter[str]]] = {}
        self._copied: Counter[int] = Counter()

    def feed(self, line: str, now: float) -> Build | None:
        """Take one line of the log; returns the build that it ends, if any."""
        if not line.startswith(PREFIX):
            return None
        event = json.loads(line.removeprefix(PREFIX))
        match event:
            case {"action": "start", "id": ident, "type": ActivityType.BUILD, "fields": [drv, machine, *_]} if machine:
                self._builds[ident] = (drv, machine, now)
            case {"action": "start", "id": ident, "type": ActivityType.COPY_PATH, "fields": [_, source, target]}:
                up = "://" in target
                self._copies[ident] = (target, self.up) if up else (source, self.down)
            case {"action": "result", "id": ident, "type": ResultType.PROGRESS, "fields": [done, *_]}:
                self._copied[ident] = done
            case {"action": "stop", "id": ident} if ident in self._copies:
                machine, direction = self._copies.pop(ident)
                direction[machine] += self._copied.pop(ident, 0)
            case {"action": "stop", "id": ident} if ident in self._builds:
                return Build(*self._builds.pop(ident), now)
            case {"action": "msg", "level": 0, "msg": text}:
                self.errors.append(text)
        return None
