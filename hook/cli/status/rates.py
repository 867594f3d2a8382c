"""How fast bytes travel, from what a broker says of itself one moment after another.

Pure: each overview brings its own time.  Tested in test_rates.py.
"""

from collections import defaultdict, deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from hook.session.ledger import Phase

WINDOW_S = 5.0
"""Long enough for the pieces in which progress is reported, short enough to show that something has stopped."""

COPYING = {Phase.SENDING.value, Phase.FETCHING.value}
DIRECTIONS = ("sent_bytes", "received_bytes")

Overview = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    copied: Mapping[Hashable, int]
    """By build or machine, and direction."""


class Rates:
    """Adds `sent_bytes_per_s` and `received_bytes_per_s` to builds and machines; 0 until there are two overviews."""

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque()
        self._process: tuple[Any, Any] | None = None

    def rated(self, overview: Overview) -> dict[str, Any]:
        """`overview`, which is the latest one, with rates."""
        if self._process != (process := (overview["pid"], overview["since"])):
            self._process = process
            self._looks.clear()
        self._looks.append(_Look(overview["now"], _copied(overview)))
        while len(self._looks) > 1 and self._looks[1].at <= overview["now"] - WINDOW_S:
            self._looks.popleft()
        return {
            **overview,
            "machines": [{**machine, **self._rates(machine["machine"])} for machine in overview["machines"]],
            "builds": [{**build, **self._rates(_key(build))} for build in overview["builds"]],
        }

    def _rates(self, subject: Hashable) -> dict[str, float]:
        first, last = self._looks[0], self._looks[-1]
        seconds = last.at - first.at
        rates = {}
        for direction in DIRECTIONS:
            key = subject, direction
            # A build that was lost takes its bytes along to another machine.
            copied = max(last.copied.get(key, 0) - first.copied.get(key, 0), 0)
            rates[f"{direction}_per_s"] = round(copied / seconds, 1) if seconds > 0 else 0.0
        return rates


def is_copying(overview: Overview) -> bool:
    """Whether there is a rate to be seen."""
    return any(build["phase"] in COPYING for build in overview["builds"])


def _copied(overview: Overview) -> dict[Hashable, int]:
    """What each build has copied, and each machine with builds that are over and those that are not."""
    copied: defaultdict[Hashable, int] = defaultdict(int)
    for direction in DIRECTIONS:
        for total in overview["totals"]:
            copied[total["machine"], direction] += total[direction]
        for build in overview["builds"]:
            copied[build["machine"], direction] += build[direction]
            copied[_key(build), direction] += build[direction]
    return copied


def _key(build: Mapping[str, Any]) -> Hashable:
    return build["derivation"], build["since"]
