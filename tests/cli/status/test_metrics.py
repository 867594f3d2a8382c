"""Numbers in the text format of Prometheus."""

import json
import re
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from hook.broker.overview import nothing
from hook.cli.status.metrics import exposition

LINE = re.compile(r'nix_ferry_[a-z_]+(\{[a-z]+="([^"\\\n]|\\.)*"(,[a-z]+="([^"\\\n]|\\.)*")*\})? [0-9.]+')

OVERVIEW: dict[str, Any] = {
    "version": "0.1.0",
    "pid": 7,
    "since": 1000.5,
    "now": 1100.0,
    "machines": [
        {
            "machine": 'ssh://"b1"',
            "state": "failed",
            "reason": "no route",
            "slots": 4,
            "slots_used": None,
            "slots_lent": 1,
            "builds_ahead": 2,
            "connections_used": 3,
            "connections_idle": 0,
        }
    ],
    "builds": [{"machine": "ssh://b1", "phase": "building"}, {"machine": "ssh://b1", "phase": "building"}],
    "answers": {"accept": 5, "decline": 1},
    "totals": [
        {
            "machine": "ssh://b1",
            "builds": {"built": 3, "failed": 0, "error": 0, "cancelled": 1, "moved": 0},
            "seconds": {
                "connecting": 0.5,
                "waiting for a slot": 0.0,
                "sending inputs": 1.0,
                "building": 9.0,
                "fetching outputs": 2.0,
                "registering": 0.1,
            },
            "sent_bytes": 10,
            "received_bytes": 20,
        }
    ],
}


def test_every_line_is_of_the_format() -> None:
    """A family begins with its help and type, and has them once."""
    lines = list(exposition(OVERVIEW))
    values = [line for line in lines if not line.startswith("#")]
    assert all(LINE.fullmatch(line) for line in values)
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    assert [line.split()[2] for line in lines if line.startswith("# HELP")] == types
    assert {re.split(r"[{ ]", line)[0] for line in values} == set(types)


def test_the_numbers_are_those_of_the_overview() -> None:
    """With labels for machine, phase, outcome and answer."""
    lines = list(exposition(OVERVIEW))
    for line in (
        "nix_ferry_up 1",
        "nix_ferry_start_time_seconds 1000.5",
        'nix_ferry_machine_state{machine="ssh://\\"b1\\"",state="failed"} 1',
        'nix_ferry_machine_state{machine="ssh://\\"b1\\"",state="works"} 0',
        'nix_ferry_slots{machine="ssh://\\"b1\\""} 4',
        'nix_ferry_builds_under_way{machine="ssh://b1",phase="building"} 2',
        'nix_ferry_answers_total{answer="accept"} 5',
        'nix_ferry_builds_total{machine="ssh://b1",outcome="cancelled"} 1',
        'nix_ferry_build_seconds_total{machine="ssh://b1",phase="building"} 9.0',
        'nix_ferry_received_bytes_total{machine="ssh://b1"} 20',
    ):
        assert line in lines
    # What cannot be seen is left out.
    assert not any(line.startswith("nix_ferry_slots_used") for line in lines)


def test_prometheus_reads_what_is_written() -> None:
    """By its own parser: each family with its type, each name of a machine as it is."""
    name = 'a"b\\c\nd \u2192 '
    told = OVERVIEW | {"machines": [OVERVIEW["machines"][0] | {"machine": name + "\udcff"}]}
    text = "".join(f"{line}\n" for line in exposition(told))
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(family.type in ("gauge", "counter") and family.documentation for family in families.values())
    (slots,) = families["nix_ferry_slots"].samples
    assert (slots.labels, slots.value) == ({"machine": name + "\\udcff"}, 4.0)
    built = families["nix_ferry_builds"].samples
    assert {sample.labels["outcome"]: sample.value for sample in built}["built"] == 3.0
    values = [line for line in text.splitlines() if not line.startswith("#")]
    assert sum(len(family.samples) for family in families.values()) == len(values)


def test_without_a_broker_there_is_nothing_to_count() -> None:
    """A scrape still succeeds, and an empty structure is JSON."""
    assert [line for line in exposition(None) if not line.startswith("#")] == ["nix_ferry_up 0"]
    assert json.loads(json.dumps(nothing()))["builds"] == []
