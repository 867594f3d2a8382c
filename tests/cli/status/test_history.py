"""What became of builds, and why each went where it went, as the commands show it."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hook.cli.main import main
from hook.cli.status.history import build_rows, shortly, summaries, summary_tables
from hook.session.record import BUILDS, DECISIONS


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the record is that the commands read."""
    monkeypatch.setenv("NIX_STATE_DIR", str(tmp_path))
    (tmp_path / "nix-ferry").mkdir(0o700)
    return str(tmp_path / "nix-ferry")


def build(name: str, machine: str = "ssh://b1", outcome: str = "built", **seconds: float) -> dict[str, Any]:
    names = {"queue": "waiting for a slot", "upload": "sending inputs", "build": "building"}
    return {
        "derivation": f"/nix/store/00000000000000000000000000000001-{name}.drv",
        "machine": machine,
        "outcome": outcome,
        "detail": "because" if outcome == "failed" else "",
        "began": 0.0,
        "ended": 60.0,
        "seconds": {names[key]: value for key, value in seconds.items()},
        "sent_bytes": 0,
        "received_bytes": 0,
        "moved_from": [],
    }


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_builds_are_shown_with_the_last_one_at_the_end(directory: str) -> None:
    BUILDS.append(directory, [build(str(number)) for number in range(30)])
    lines = run("history", "-n", "3").stdout.splitlines()
    assert lines[0].split() == ["WHEN", "DERIVATION", "MACHINE", "OUTCOME", "QUEUE", "UPLOAD", "BUILD", "DOWNLOAD"]
    assert [line.split()[1] for line in lines[1:]] == ["27", "28", "29"]
    assert len(run("history").stdout.splitlines()) == 21


def test_builds_of_one_machine_can_be_chosen(directory: str) -> None:
    """By a part of its address; nothing found is said."""
    BUILDS.append(directory, [build("a", "ssh://b1"), build("b", "ssh://b2")])
    shown = json.loads(run("history", "--machine", "b2", "--json").stdout)
    assert [entry["machine"] for entry in shown] == ["ssh://b2"]
    assert run("history", "--machine", "b3").stdout == "no build has gone to such a machine yet\n"


def test_a_row_says_what_it_cost_and_where_it_was_before() -> None:
    failed = build("a", outcome="failed", queue=1, upload=2, build=3) | {"moved_from": ["ssh://b2"]}
    assert build_rows([failed], now=120.0) == [
        (shortly(60.0, 120.0), "a", "b1 (after b2)", "failed: because", "1.0s", "2.0s", "3.0s", "-")
    ]


def test_a_time_is_as_long_as_it_must_be() -> None:
    """Today's has no day, and this year's no year."""
    noon, day = time.mktime((2026, 6, 15, 12, 0, 0, 0, 0, -1)), 86400
    shown = [shortly(noon, now) for now in (noon + 60, noon + day, noon + 365 * day)]
    assert shown == ["12:00:00", "06-15 12:00", "2026-06-15"]


def test_what_a_record_says_at_length_is_cut_for_a_table() -> None:
    """A table is as wide as its widest cell, and earlier versions kept megabytes."""
    long = build("a", outcome="failed") | {"detail": "first " + "x" * 1_000_000 + " last"}
    ((*row,),) = build_rows([long], long["ended"])
    assert row[3].startswith("failed: first xxx")
    assert row[3].endswith("xxx last")
    assert len(row[3]) < 500


def test_the_summary_counts_by_machine_and_derivation() -> None:
    """Cancelled builds are nobody's failure, and only built ones have a duration worth knowing."""
    builds = [
        build("a", build=1),
        build("a", build=3),
        build("a", build=5),
        build("a", outcome="failed", build=100),
        build("b", outcome="cancelled", build=100),
    ]
    by_machine, by_derivation = summary_tables(builds)
    assert by_machine == ("MACHINE", [("b1", "5", "3", "1", "0", "75%", "0.0s", "0.0s", "3.0s", "0.0s")])
    assert by_derivation == (
        "DERIVATION",
        [
            ("a", "4", "3", "1", "0", "75%", "0.0s", "0.0s", "3.0s", "0.0s"),
            ("b", "1", "0", "0", "0", "-", "-", "-", "-", "-"),
        ],
    )
    assert [group["success"] for group in summaries(builds)["derivation"]] == [0.75, None]


def test_a_machine_that_loses_builds_is_not_as_good_as_one_that_builds_them() -> None:
    """They were built elsewhere, or nowhere; the derivation is none the worse for it."""
    moved = [build("a", "ssh://b1") | {"moved_from": ["ssh://b2"]}, build("a", "ssh://b2")]
    nowhere = build("a", "ssh://b3", outcome="error") | {"moved_from": ["ssh://b3", "ssh://b3"]}
    refused = build("a", "ssh://b4", outcome="error")
    told = summaries([*moved, nowhere, refused])
    assert [(each["machine"], each["builds"], each["lost"], each["success"]) for each in told["machine"]] == [
        ("ssh://b1", 1, 0, 1.0),
        ("ssh://b2", 1, 1, 0.5),
        ("ssh://b3", 1, 2, 0.0),
        ("ssh://b4", 1, 1, 0.0),
    ]
    assert [(each["builds"], each["lost"], each["success"]) for each in told["derivation"]] == [(4, 4, 0.5)]
    (only_lost,) = [each for each in summaries(moved[:1])["machine"] if each["machine"] == "ssh://b2"]
    assert (only_lost["builds"], only_lost["success"]) == (0, 0.0)


def test_the_summary_is_of_all_builds(directory: str) -> None:
    """Not of those that fit on a screen."""
    BUILDS.append(directory, [build("a") for _ in range(30)])
    assert json.loads(run("history", "--summary", "--json").stdout)["machine"][0]["builds"] == 30
    assert "30" in run("history", "--summary").stdout.split()


def test_decisions_are_shown_with_every_machines_reason(directory: str) -> None:
    """What a machine calls itself is not for the terminal to obey."""
    drv = "/nix/store/00000000000000000000000000000001-a.drv"
    reasons = [{"machine": "ssh://b1", "reason": "lacks feature 'kvm'"}, {"machine": "ssh://b2", "reason": "\x1b[2J"}]
    entry = {"at": 0.0, "derivation": drv, "answer": "decline", "machines": reasons}
    DECISIONS.append(directory, [entry, entry | {"derivation": "/nix/store/other.drv", "machines": []}])
    shown = run("explain", "--recent", "1-a.drv").stdout.splitlines()
    assert shown[0].endswith(f" {drv}: decline")
    assert shown[1:] == ["  ssh://b1: lacks feature 'kvm'", r"  ssh://b2: \x1b[2J"]
    assert len(run("explain", "--recent").stdout.splitlines()) == 5
    assert json.loads(run("explain", "--recent", "--json").stdout)[0] == entry


def test_nothing_yet_is_no_error(directory: str) -> None:
    for arguments, said in (
        (["history"], "no build has gone elsewhere yet\n"),
        (["explain", "--recent"], "nothing was decided yet\n"),
        (["explain", "--recent", "x"], "nothing was decided yet about 'x'\n"),
    ):
        done = run(*arguments)
        assert (done.exit_code, done.stdout) == (0, said)


def test_explain_needs_something_to_explain() -> None:
    done = run("explain")
    assert done.exit_code == 2
    assert "Missing argument 'INSTALLABLE'" in done.stderr
