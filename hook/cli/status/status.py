"""`nix-ferry status`: what the broker is doing at this moment, once or as a live view.

Tested in test_status.py with made-up answers, and in tests/lab/test_status.py with a build that is under way.
"""

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import click

from hook.broker.client import broker_directory, elsewhere, overview_of
from hook.broker.overview import nothing
from hook.cli import daemon, nix
from hook.cli.command import as_json, command
from hook.cli.install import where as place
from hook.cli.output import print_json, print_table
from hook.cli.status.live import Screen, show
from hook.cli.status.rates import Rates, is_copying
from hook.cli.words import brief, derivation_name, duration, rate, short_names, size
from hook.errors import FerryError, printable
from hook.session.ledger import Phase
from hook.session.record import BUILDS

WATCH_S = 1.0
NO_BROKER = "no broker is running: the next build that could go elsewhere starts one"
GIVEN_BACK = "not built elsewhere after all"
LEFT = "not seen any more: its broker has ended, or takes no more"
NOT_OURS = "no broker is running, and Nix does not run nix-ferry's hook: 'nix-ferry doctor' says what helps"

MACHINE_HEADER = ("MACHINE", "STATE", "SLOTS", "LINKS", "COPIES", "BUILT", "FAILED", "LOST")
BUILD_HEADER = ("DERIVATION", "MACHINE", "PHASE", "FOR", "SENT", "FETCHED", "ELAPSED")

BRIEFLY = {
    Phase.SENDING.value: "sending",
    Phase.WAITING.value: "waiting",
    Phase.FETCHING.value: "fetching",
}
"""Phases in a table; elsewhere they have their whole names."""

Overview = Mapping[str, Any]
Look = Overview | str
"""What a broker says, or why none says anything."""

Key = tuple[str, float]
"""A build: its derivation, and since when it goes on."""

Fates = Callable[[Sequence[Key]], Mapping[Key, str]]
"""What became of builds that are over, as far as that is known."""


@click.command()
@click.option("--watch", is_flag=True, help="Go on, every second, until Ctrl-C; the exit status is 0 then.")
@as_json
@command
def status(watch: bool, as_json: bool) -> int:
    """Show what the broker is doing: its machines, and builds with what they are at.

    Of slots and connections it tells how many are in use and how many there are; of what is copied, how much, and how
    fast it went in the last seconds. Builds that wait for the same are one row.

    --watch shows it every second; in a pipe, it looks as often and prints a line for each build that began, came to
    another phase or ended, and how, or with --json a line of JSON. It goes on when the broker ends, and with the next
    one. What takes less than a second may be missing; 'nix-ferry history' has all.

    \b
    Examples:
      nix-ferry status                                   once
      nix-ferry status --watch                           a live view, until Ctrl-C
      nix-ferry status --watch | tee log                 a line for each change
      nix-ferry status --json | jq '.builds[].phase'     what builds are at, for programs
    """
    directory = broker_directory(os.environ)
    if not watch:
        _show(look_once(directory), as_json=as_json)
        if not as_json and (others := elsewhere(directory)):
            click.echo(others.removeprefix("; "))
        return 0
    with suppress(KeyboardInterrupt):
        if as_json:
            for look in looks(directory):
                click.echo(json.dumps(nothing() if isinstance(look, str) else look, sort_keys=True))
        elif sys.stdout.isatty():
            show(map(screen, looks(directory)))
        else:
            news = News(fates_in(directory))
            for look in looks(directory):
                for line in news.since_last(look):
                    click.echo(line)
    return 0


def look_once(directory: str) -> Overview | None:
    """What the broker says; while something is copied, a moment later, with how fast that goes."""
    overview = overview_of(directory)
    if overview is None:
        return None
    rates = Rates()
    rated = rates.rated(overview)
    if is_copying(overview):
        time.sleep(WATCH_S)
        if later := overview_of(directory):
            rated = rates.rated(later)
    return rated


def looks(directory: str) -> Iterator[Look]:
    """What the broker says, every second; one that is leaving, or of another version, ends nothing."""
    rates = Rates()
    none = ""
    while True:
        try:
            overview = overview_of(directory)
            # Nix takes a while to say what it runs, and may say another thing when there was a broker meanwhile.
            none = (none or no_broker()) if overview is None else ""
            yield none if overview is None else rates.rated(overview)
        except FerryError as error:
            yield error.one_line
        sys.stdout.flush()
        time.sleep(WATCH_S)


def no_broker() -> str:
    """That none runs, and whether the next build changes that."""
    try:
        served = daemon.serves(nix.settings(), os.environ)
        environ = place.environment_of_builds(served)
        value = place.effective(environ).text("build-hook")
        unread = served and place.not_read_yet(environ)
    except FerryError:
        return "no broker is running"
    if place.is_hook(value) and unread:
        return f"no broker is running: the Nix daemon has to be restarted, since {unread}"
    return NO_BROKER if place.is_hook(value) else NOT_OURS


def _show(overview: Overview | None, *, as_json: bool) -> None:
    if as_json:
        print_json(overview or nothing())
        return
    first, sections = screen(overview or no_broker())
    click.echo(first)
    for header, rows in sections:
        if rows:
            click.echo()
            print_table(header, rows)


def screen(look: Look) -> Screen:
    """All there is to show."""
    if isinstance(look, str):
        return printable(look), ()
    return headline(look), ((MACHINE_HEADER, machine_rows(look)), (BUILD_HEADER, build_rows(look)))


def headline(overview: Overview) -> str:
    """The broker itself, on one line."""
    count = len(overview["builds"])
    builds = "no build is" if not count else "1 build is" if count == 1 else f"{count} builds are"
    running = duration(overview["now"] - overview["since"])
    return f"broker {overview['version']}, process {overview['pid']}, for {running}; {builds} under way"


def machine_rows(overview: Overview) -> list[tuple[str, ...]]:
    """Machines, and what each has done since the broker began."""
    totals = {total["machine"]: total["builds"] for total in overview["totals"]}
    names = names_in(overview)
    rows: list[tuple[str, ...]] = []
    for machine in overview["machines"]:
        used = "?" if machine["slots_used"] is None else machine["slots_used"]
        lent = f", {machine['slots_lent']} lent" if machine["slots_lent"] else ""
        builds = totals.get(machine["machine"], {})
        rows.append(
            (
                names[machine["machine"]],
                state(machine),
                f"{used}/{machine['slots']}{lent}",
                f"{machine['connections_used']}/{machine['connections_used'] + machine['connections_idle']}",
                _copying(machine),
                str(builds.get("built", 0)),
                str(builds.get("failed", 0)),
                str(builds.get("moved", 0) + builds.get("error", 0)),
            )
        )
    return rows


def names_in(overview: Overview) -> dict[str, str]:
    """What machines are called in tables."""
    return short_names({each["machine"]: None for each in (*overview["machines"], *overview["builds"])})


def _copying(machine: Mapping[str, Any]) -> str:
    """How fast bytes go to a machine and come from it."""
    directions = {"up": rate(machine["sent_bytes_per_s"]), "down": rate(machine["received_bytes_per_s"])}
    return ", ".join(f"{name} {speed}" for name, speed in directions.items() if speed) or "-"


def state(machine: Mapping[str, Any]) -> str:
    """How a machine is; of one that works, when it was last known to."""
    if machine["state"] == "works" and machine["answered_s_ago"] is not None:
        return f"answered {brief(machine['answered_s_ago'])} ago"
    if machine["state"] == "disabled":
        return str(machine["reason"]).replace(" by the user", "")
    return f"{machine['state']}: {machine['reason']}" if machine["reason"] else str(machine["state"])


def build_rows(overview: Overview) -> list[tuple[str, ...]]:
    """Builds that are under way, the oldest first; then those that wait, a row for all that wait for the same."""
    now, names = overview["now"], names_in(overview)
    states = {machine["machine"]: machine["state"] for machine in overview["machines"]}
    moving = [build for build in overview["builds"] if build["phase"] != Phase.WAITING.value]
    waiting: defaultdict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for build in overview["builds"]:
        if build["phase"] == Phase.WAITING.value:
            waiting[build["machine"], build["obstacle"]].append(build)
    rows = [(derivation_name(build["derivation"]), build, _copied(build)) for build in moving]
    rows += [
        (_all_of(builds), builds[0], ("-", "-") if builds[1:] else _copied(builds[0])) for builds in waiting.values()
    ]
    return [
        (
            name,
            names[build["machine"]],
            _brief_phase(build, states),
            brief(now - build["phase_since"]),
            *copied,
            brief(now - build["since"]),
        )
        for name, build, copied in rows
    ]


def _all_of(builds: Sequence[Mapping[str, Any]]) -> str:
    more = f" + {len(builds) - 1} more" if builds[1:] else ""
    return derivation_name(builds[0]["derivation"]) + more


def _brief_phase(build: Mapping[str, Any], states: Mapping[str, str]) -> str:
    if build["obstacle"]:
        return f"waiting: {states[build['machine']]}"
    return BRIEFLY.get(build["phase"], str(build["phase"]))


def _copied(build: Mapping[str, Any]) -> tuple[str, str]:
    """How much each way, and how fast if it goes on."""
    shown = []
    for direction in ("sent_bytes", "received_bytes"):
        speed = rate(build[f"{direction}_per_s"])
        shown.append(size(build[direction]) + (f", {speed}" if speed else ""))
    return shown[0], shown[1]


def phase(build: Mapping[str, Any]) -> str:
    """What a build is at, and where."""
    if build["obstacle"]:
        return f"waiting for a machine: '{build['machine']}' is not to be used: {build['obstacle']}"
    return f"{build['phase']} on '{build['machine']}'"


def fates_in(directory: str) -> Fates:
    """What became of builds, by the record in `directory`, which a broker brings up to date when it is asked."""

    def fates(keys: Sequence[Key]) -> dict[Key, str]:
        wanted = {(drv, round(since, 3)): (drv, since) for drv, since in keys}
        found = {}
        with suppress(OSError):
            for entry in BUILDS.read(directory):
                if key := wanted.get((entry["derivation"], entry.get("began", 0.0))):
                    detail = printable(entry["detail"])
                    found[key] = entry["outcome"] + (f": {detail}" if detail else "")
        return found

    return fates


class News:
    """What has changed between two looks, for a pipe."""

    def __init__(self, fates: Fates, clock: Callable[[], str] = lambda: time.strftime("%H:%M:%S")) -> None:
        self._fates = fates
        self._clock = clock
        self._known: dict[tuple[str, float], str] = {}
        self._broker: object = None

    def since_last(self, look: Look) -> list[str]:
        """A line for each build that began, came to another phase or ended; and one when the broker comes or goes."""
        lines = []
        broker = printable(look) if isinstance(look, str) else look["pid"]
        if another := broker != self._broker:
            self._broker = broker
            lines.append(screen(look)[0])
        builds = [] if isinstance(look, str) else look["builds"]
        now = {(build["derivation"], build["since"]): phase(build) for build in builds}
        lines += [f"{derivation_name(key[0])}: {at}" for key, at in now.items() if self._known.get(key) != at]
        if gone := [key for key in self._known if key not in now]:
            fates = self._fates(gone)
            unknown = LEFT if another else GIVEN_BACK
            lines += [f"{derivation_name(key[0])}: {fates.get(key, unknown)}" for key in gone]
        self._known = now
        return [f"{self._clock()} {line}" for line in lines]
