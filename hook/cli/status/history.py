"""`nix-ferry history` and `nix-ferry explain --recent`: what became of builds, and why each went where it went.

Both read the record (session/record.py), which a broker that runs brings up to date first.  Tested in test_history.py.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import click

from hook.broker.client import broker_directory, overview_of
from hook.cli.command import as_json, command
from hook.cli.complete import complete_machine
from hook.cli.output import print_json, print_table
from hook.cli.words import brief, derivation_name, short_names
from hook.errors import FerryError, printable, shortened
from hook.session.ledger import Outcome, Phase
from hook.session.record import BUILDS, DECISIONS, Record

BUILD_HEADER = ("WHEN", "DERIVATION", "MACHINE", "OUTCOME", "QUEUE", "UPLOAD", "BUILD", "DOWNLOAD")
SUMMARY = ("BUILDS", "BUILT", "FAILED", "LOST", "SUCCESS", "QUEUE", "UPLOAD", "BUILD", "DOWNLOAD")
DURATIONS = (Phase.WAITING, Phase.SENDING, Phase.BUILDING, Phase.FETCHING)
"""What the columns from QUEUE on say."""

DETAIL_SHOWN = 400
"""Characters of what became of a build, in a table that is as wide as the widest; JSON has all that is kept."""

Entry = Mapping[str, Any]


@click.command()
@click.option(
    "-n", "--lines", default=20, show_default=True, type=click.IntRange(min=1), help="How many builds to show."
)
@click.option(
    "--machine",
    metavar="WORD",
    help="Only builds on machines whose address contains WORD.",
    shell_complete=complete_machine,
)
@click.option("--summary", is_flag=True, help="Success rates and median durations of all, by machine and derivation.")
@as_json
@command
def history(lines: int, machine: str | None, summary: bool, as_json: bool) -> int:
    """Show what became of builds that went elsewhere, the last one at the end.

    Outcomes: 'built'; 'failed', the derivation itself; 'error', no machine was left or something was wrong here;
    'cancelled', Nix gave it up. Of the time that each took, it tells how long it waited for a slot, sent inputs, built,
    and fetched outputs.

    With --summary, a build that a machine lost counts against that machine, though it was built elsewhere.

    \b
    Examples:
      nix-ferry history -n 5 --machine fast-box   the last five builds there
      nix-ferry history --summary                 success rates and usual times
    """
    builds = [build for build in read(BUILDS) if machine is None or machine in build["machine"]]
    shown = builds if summary else builds[-lines:]
    if as_json:
        print_json(summaries(shown) if summary else shown)
    elif not shown:
        click.echo("no build has gone elsewhere yet" if machine is None else "no build has gone to such a machine yet")
    elif summary:
        for number, (subject, rows) in enumerate(summary_tables(shown)):
            if number:
                click.echo()
            print_table((subject, *SUMMARY), rows)
    else:
        print_table(BUILD_HEADER, build_rows(shown, time.time()))
    return 0


def show_recent(word: str | None, *, as_json: bool) -> int:
    """Print past decisions, the last one at the end; only about derivations whose path contains `word`, if given."""
    found = [decision for decision in read(DECISIONS) if word is None or word in decision["derivation"]][-20:]
    if as_json:
        print_json(found)
    elif not found:
        click.echo("nothing was decided yet" if word is None else f"nothing was decided yet about '{word}'")
    for number, decision in enumerate(() if as_json else found):
        if number:
            click.echo()
        click.echo(f"{when(decision['at'])} {printable(decision['derivation'])}: {decision['answer']}")
        for machine in decision["machines"]:
            click.echo(f"  {printable(machine['machine'])}: {printable(shortened(machine['reason']))}")
    return 0


def read(record: Record) -> list[Entry]:
    """All that is kept, with what the broker has not written yet."""
    directory = broker_directory(os.environ)
    overview_of(directory)
    try:
        return list(record.read(directory))
    except OSError as error:
        raise FerryError(f"cannot read '{error.filename}': {error.strerror}") from None


def when(seconds: float) -> str:
    """A local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def build_rows(builds: Sequence[Entry], now: float) -> list[tuple[str, ...]]:
    """Cells for each build."""
    names = short_names({machine: None for build in builds for machine in (build["machine"], *build["moved_from"])})
    return [_build_row(build, names, now) for build in builds]


def shortly(seconds: float, now: float) -> str:
    """A local time, without the day if that is today and without the year if it is this one."""
    then, today = time.localtime(seconds), time.localtime(now)
    if then[:3] == today[:3]:
        return time.strftime("%H:%M:%S", then)
    return time.strftime("%m-%d %H:%M" if then.tm_year == today.tm_year else "%Y-%m-%d", then)


def _build_row(build: Entry, names: Mapping[str, str], now: float) -> tuple[str, ...]:
    moved = f" (after {', '.join(names[machine] for machine in build['moved_from'])})" if build["moved_from"] else ""
    return (
        shortly(build["ended"], now),
        derivation_name(build["derivation"]),
        names[build["machine"]] + moved,
        build["outcome"] + (f": {shortened(build['detail'], DETAIL_SHOWN)}" if build["detail"] else ""),
        *(_duration(build["seconds"].get(phase.value)) for phase in DURATIONS),
    )


def summary_tables(builds: Sequence[Entry]) -> list[tuple[str, list[tuple[str, ...]]]]:
    """By machine and by derivation, each most builds first."""
    tables = []
    for subject, groups in summaries(builds).items():
        names = short_names(group[subject] for group in groups) if subject == "machine" else {}
        rows = [
            (
                names.get(group[subject], group[subject]),
                *(str(group[count]) for count in ("builds", "built", "failed", "lost")),
                "-" if group["success"] is None else f"{group['success']:.0%}",
                *(_duration(group["median_seconds"][phase.value]) for phase in DURATIONS),
            )
            for group in groups
        ]
        tables.append((subject.upper(), rows))
    return tables


def summaries(builds: Sequence[Entry]) -> dict[str, list[dict[str, Any]]]:
    """The same for programs.

    `success` is, for a machine, the share of its tries that were built: one that it lost counts, wherever the build
    went then.  For a derivation it is the share of its builds.  What Nix gave up counts for neither; None if nothing
    is left.
    """
    machines: defaultdict[str, list[Entry]] = defaultdict(list)
    derivations: defaultdict[str, list[Entry]] = defaultdict(list)
    lost = Counter(machine for build in builds for machine in _losers(build))
    machines.update({machine: [] for machine in lost})
    for build in builds:
        machines[build["machine"]].append(build)
        derivations[derivation_name(build["derivation"])].append(build)
    return {
        "machine": _most_first("machine", [_by_machine(name, group, lost[name]) for name, group in machines.items()]),
        "derivation": _most_first("derivation", [_by_derivation(name, group) for name, group in derivations.items()]),
    }


def _losers(build: Entry) -> list[str]:
    """The machines that lost it, or could not do it by no fault of its own."""
    last = [build["machine"]] if build["outcome"] == Outcome.ERROR.value else []
    return [*build["moved_from"], *(machine for machine in last if machine not in build["moved_from"])]


def _by_machine(name: str, builds: Sequence[Entry], lost: int) -> dict[str, Any]:
    outcomes = Counter(build["outcome"] for build in builds)
    tries = outcomes[Outcome.BUILT.value] + outcomes[Outcome.FAILED.value] + lost
    return {"machine": name, **_summary(builds, lost, tries)}


def _by_derivation(name: str, builds: Sequence[Entry]) -> dict[str, Any]:
    ended = sum(build["outcome"] != Outcome.CANCELLED.value for build in builds)
    return {"derivation": name, **_summary(builds, sum(len(_losers(build)) for build in builds), ended)}


def _most_first(subject: str, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(groups, key=lambda group: (-group["builds"], group[subject]))


def _summary(builds: Sequence[Entry], lost: int, tries: int) -> dict[str, Any]:
    built = [build for build in builds if build["outcome"] == Outcome.BUILT.value]
    seconds = {phase.value: [build["seconds"].get(phase.value, 0.0) for build in built] for phase in DURATIONS}
    return {
        "builds": len(builds),
        "built": len(built),
        "failed": sum(build["outcome"] == Outcome.FAILED.value for build in builds),
        "lost": lost,
        "success": len(built) / tries if tries else None,
        "median_seconds": {name: median(values) if values else None for name, values in seconds.items()},
    }


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else brief(seconds)
