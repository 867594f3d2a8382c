"""`nix-ferry metrics`: the broker's overview in Prometheus' text format, for the textfile collector, say.

Pure but for the command itself; tested in test_metrics.py.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import click

from hook.broker.client import broker_directory, overview_of
from hook.cli.command import command
from hook.session.ledger import Phase

Overview = Mapping[str, Any]

STATES = ("works", "in use", "not asked lately", "failed", "disabled")


@click.command()
@command
def metrics() -> int:
    """Print numbers for Prometheus, in its text format.

    Counters begin with the broker; without one there is only nix_ferry_up 0.

    \b
    Examples:
      nix-ferry metrics                    slots, builds, bytes … by machine
      nix-ferry metrics > nix-ferry.prom   for the textfile collector of the node exporter
    """
    for line in exposition(overview_of(broker_directory(os.environ))):
        click.echo(line)
    return 0


def exposition(overview: Overview | None) -> Iterator[str]:
    """The lines of the text format."""
    yield from _family("up", "gauge", "Whether a broker is running.", [({}, int(overview is not None))])
    if overview is None:
        return
    text = "When the broker began, in seconds since 1970."
    yield from _family("start_time_seconds", "gauge", text, [({}, overview["since"])])
    yield from _machines(overview)
    phases = Counter((build["machine"], build["phase"]) for build in overview["builds"])
    under_way = [({"machine": machine, "phase": phase}, count) for (machine, phase), count in sorted(phases.items())]
    yield from _family("builds_under_way", "gauge", "Builds by what they are at.", under_way)
    answers = [({"answer": answer}, count) for answer, count in sorted(overview["answers"].items())]
    yield from _family("answers_total", "counter", "Questions of Nix, by how they were answered.", answers)
    yield from _totals(overview)


def _machines(overview: Overview) -> Iterator[str]:
    machines = overview["machines"]
    states = [
        ({"machine": machine["machine"], "state": state}, int(machine["state"] == state))
        for machine in machines
        for state in STATES
    ]
    yield from _family("machine_state", "gauge", "1 for the state that a machine is in.", states)
    for key, name, text in (
        ("slots", "slots", "Builds that a machine takes at once."),
        ("slots_used", "slots_used", "Slots in use, by whatever hooks of this host."),
        ("slots_lent", "slots_lent", "Slots of builds whose inputs still travel."),
        ("builds_ahead", "builds_ahead", "Builds with a place at a machine that do not run yet."),
        ("connections_used", "connections_used", "Connections with a build."),
        ("connections_idle", "connections_idle", "Connections that are kept for the next build."),
    ):
        values = [({"machine": machine["machine"]}, machine[key]) for machine in machines if machine[key] is not None]
        yield from _family(name, "gauge", text, values)


def _totals(overview: Overview) -> Iterator[str]:
    totals = overview["totals"]
    builds = [
        ({"machine": total["machine"], "outcome": outcome}, count)
        for total in totals
        for outcome, count in total["builds"].items()
    ]
    yield from _family("builds_total", "counter", "Builds that are over, and those that left a machine.", builds)
    seconds = [
        ({"machine": total["machine"], "phase": phase.value}, total["seconds"][phase.value])
        for total in totals
        for phase in Phase
    ]
    yield from _family("build_seconds_total", "counter", "Time that these builds took, by phase.", seconds)
    for key, text in (("sent_bytes", "NARs sent to a machine."), ("received_bytes", "NARs fetched from a machine.")):
        values = [({"machine": total["machine"]}, total[key]) for total in totals]
        yield from _family(f"{key}_total", "counter", text, values)


def _family(name: str, kind: str, text: str, values: list[tuple[dict[str, str], Any]]) -> Iterator[str]:
    """One metric with its values by labels; nothing if there are none."""
    if values:
        yield f"# HELP nix_ferry_{name} {text}"
        yield f"# TYPE nix_ferry_{name} {kind}"
    for labels, value in values:
        shown = ",".join(f'{label}="{_escape(text)}"' for label, text in labels.items())
        yield f"nix_ferry_{name}{{{shown}}} {value}" if shown else f"nix_ferry_{name} {value}"


def _escape(text: str) -> str:
    # The format is UTF-8, and no machine's address has to be.
    text = text.encode(errors="backslashreplace").decode()
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
