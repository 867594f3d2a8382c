"""`nix-ferry status`: what the broker is doing at this moment, once or as a live view.

Tested in test_status.py with made-up answers, and in tests/lab/test_status.py with a build that is under way.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from hook.cli.asking import broker_directory, overview_of
from hook.cli.command import as_json, command
from hook.cli.output import make_table, print_json, print_table
from hook.cli.words import derivation_name, duration, size
from hook.overview import nothing

if TYPE_CHECKING:
    from rich.console import RenderableType

WATCH_S = 1.0
NO_BROKER = "no broker is running: the next build that could go elsewhere starts one"

MACHINES = ("MACHINE", "STATE", "SLOTS", "CONNECTIONS", "BUILT", "FAILED", "LOST")
BUILDS = ("DERIVATION", "MACHINE", "PHASE", "FOR", "SENT", "FETCHED", "ELAPSED")

Overview = Mapping[str, Any]


@click.command()
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C, which is no error: the exit status is 0.")
@as_json
@command
def status(watch: bool, as_json: bool) -> int:
    """Show what the broker is doing: machines, slots, connections, and builds with what they are at.

    --watch shows it every second; in a pipe, it prints a line whenever a build begins, comes to another phase or ends,
    or with --json a line of JSON every second.
    """
    directory = broker_directory(os.environ)
    if not watch:
        _show(overview_of(directory), as_json=as_json)
        return 0
    with suppress(KeyboardInterrupt):
        if as_json:
            for overview in _looks(directory):
                click.echo(json.dumps(overview or nothing(), sort_keys=True))
        elif sys.stdout.isatty():
            _watch(directory)
        else:
            news = News()
            for overview in _looks(directory):
                for line in news.since_last(overview):
                    click.echo(line)
    return 0


def _looks(directory: str) -> Iterator[Overview | None]:
    """What the broker says, every second."""
    while True:
        yield overview_of(directory)
        sys.stdout.flush()
        time.sleep(WATCH_S)


def _watch(directory: str) -> None:
    """A live view as large as the terminal is at each moment."""
    from rich.live import Live

    with Live(screen=True, auto_refresh=False) as live:
        for overview in _looks(directory):
            live.update(_view(overview), refresh=True)


def _view(overview: Overview | None) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    if overview is None:
        return Text(NO_BROKER)
    machines = make_table(MACHINES, machine_rows(overview))
    return Group(Text(headline(overview)), Text(), machines, Text(), make_table(BUILDS, build_rows(overview)))


def _show(overview: Overview | None, *, as_json: bool) -> None:
    if as_json:
        print_json(overview or nothing())
    elif overview is None:
        click.echo(NO_BROKER)
    else:
        click.echo(headline(overview))
        for header, rows in ((MACHINES, machine_rows(overview)), (BUILDS, build_rows(overview))):
            if rows:
                click.echo()
                print_table(header, rows)


def headline(overview: Overview) -> str:
    """The broker itself, on one line."""
    count = len(overview["builds"])
    builds = "no build is" if not count else "1 build is" if count == 1 else f"{count} builds are"
    running = duration(overview["now"] - overview["since"])
    return f"broker {overview['version']}, process {overview['pid']}, for {running}; {builds} under way"


def machine_rows(overview: Overview) -> list[tuple[str, ...]]:
    """Machines, and what each has done since the broker began."""
    totals = {total["machine"]: total["builds"] for total in overview["totals"]}
    rows: list[tuple[str, ...]] = []
    for machine in overview["machines"]:
        used = "?" if machine["slots_used"] is None else machine["slots_used"]
        lent = f", {machine['slots_lent']} lent" if machine["slots_lent"] else ""
        builds = totals.get(machine["machine"], {})
        rows.append(
            (
                machine["machine"],
                machine["state"] + (f": {machine['reason']}" if machine["reason"] else ""),
                f"{used}/{machine['slots']}{lent}",
                f"{machine['connections_used']} used, {machine['connections_idle']} idle",
                str(builds.get("built", 0)),
                str(builds.get("failed", 0)),
                str(builds.get("moved", 0) + builds.get("error", 0)),
            )
        )
    return rows


def build_rows(overview: Overview) -> list[tuple[str, ...]]:
    """Builds that are under way, the oldest first."""
    now = overview["now"]
    return [
        (
            derivation_name(build["derivation"]),
            build["machine"],
            phase(build),
            duration(now - build["phase_since"]),
            size(build["sent_bytes"]),
            size(build["received_bytes"]),
            duration(now - build["since"]),
        )
        for build in overview["builds"]
    ]


def phase(build: Mapping[str, Any]) -> str:
    """What a build is at; of one that waits, how many are before it."""
    before = (build["position"] or 1) - 1
    return f"{build['phase']}, {before} before it" if before else str(build["phase"])


class News:
    """What has changed between two looks, for a pipe."""

    def __init__(self, clock: Callable[[], str] = lambda: time.strftime("%H:%M:%S")) -> None:
        self._clock = clock
        self._known: dict[tuple[str, float], str] = {}
        self._runs: bool | None = None

    def since_last(self, overview: Overview | None) -> list[str]:
        """A line for each build that began, came to another phase or ended; and one when the broker comes or goes."""
        lines = []
        if (overview is not None) is not self._runs:
            self._runs = overview is not None
            lines.append(NO_BROKER if overview is None else headline(overview))
        builds = overview["builds"] if overview is not None else []
        now = {(build["derivation"], build["since"]): f"{phase(build)} on '{build['machine']}'" for build in builds}
        for key, state in now.items():
            if self._known.get(key) != state:
                lines.append(f"{derivation_name(key[0])}: {state}")
        lines += [f"{derivation_name(drv)}: over" for drv, since in self._known if (drv, since) not in now]
        self._known = now
        return [f"{self._clock()} {line}" for line in lines]
