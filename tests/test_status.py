"""What `nix-ferry status` makes of a broker's answer."""

from typing import Any

from hook.cli.status import News, build_rows, headline, machine_rows
from hook.errors import printable

DRV = "/nix/store/00000000000000000000000000000001-hello.drv"


def build(phase: str = "building", since: float = 100.0, **more: Any) -> dict[str, Any]:
    return {
        "derivation": DRV,
        "machine": "ssh://b1",
        "phase": phase,
        "position": None,
        "since": since,
        "phase_since": since + 10,
        "sent_bytes": 1000,
        "received_bytes": 0,
        **more,
    }


def machine(**more: Any) -> dict[str, Any]:
    return {
        "machine": "ssh://b1",
        "state": "works",
        "reason": "",
        "slots": 4,
        "slots_used": 2,
        "slots_lent": 0,
        "builds_ahead": 0,
        "connections_used": 1,
        "connections_idle": 3,
        **more,
    }


def overview(*builds: dict[str, Any], machines: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    totals = [{"machine": "ssh://b1", "builds": {"built": 5, "failed": 1, "error": 2, "moved": 1, "cancelled": 9}}]
    return {
        "version": "0.1.0",
        "pid": 7,
        "since": 0.0,
        "now": 200.0,
        "machines": list(machines),
        "builds": list(builds),
        "answers": {},
        "totals": totals,
    }


def test_a_build_is_a_row() -> None:
    """What it is at, for how long, what was copied, and since when it goes on."""
    assert build_rows(overview(build(position=None))) == [
        ("hello", "ssh://b1", "building", "1 min 30 s", "1.0 KB", "0 B", "1 min 40 s")
    ]


def test_a_build_that_waits_says_how_many_are_before_it() -> None:
    """The first has nobody before it."""
    first, third = build("waiting for a slot", position=1), build("waiting for a slot", position=3)
    assert [row[2] for row in build_rows(overview(first, third))] == [
        "waiting for a slot",
        "waiting for a slot, 2 before it",
    ]


def test_a_machine_is_a_row() -> None:
    """Its state with the reason, slots with those that are lent, and what it has done."""
    failed = machine(machine="ssh://b2", state="failed", reason="no route", slots_used=None, slots_lent=1)
    assert machine_rows(overview(machines=(machine(), failed))) == [
        ("ssh://b1", "works", "2/4", "1 used, 3 idle", "5", "1", "3"),
        ("ssh://b2", "failed: no route", "?/4, 1 lent", "1 used, 3 idle", "0", "0", "0"),
    ]


def test_the_headline_counts() -> None:
    shown = [headline(overview(*[build()] * count)).partition("; ")[2] for count in range(3)]
    assert shown == ["no build is under way", "1 build is under way", "2 builds are under way"]


def test_a_pipe_gets_a_line_for_each_change() -> None:
    """And none for what goes on as before."""
    news = News(lambda: "12:00:00")
    assert news.since_last(overview(build("connecting"))) == [
        f"12:00:00 {headline(overview(build()))}",
        "12:00:00 hello: connecting on 'ssh://b1'",
    ]
    assert news.since_last(overview(build("connecting"))) == []
    assert news.since_last(overview(build("building", machine="ssh://b2"), build("connecting", since=101.0))) == [
        "12:00:00 hello: building on 'ssh://b2'",
        "12:00:00 hello: connecting on 'ssh://b1'",
    ]
    assert news.since_last(overview(build("connecting", since=101.0))) == ["12:00:00 hello: over"]
    (gone, over) = news.since_last(None)
    assert gone.startswith("12:00:00 no broker is running")
    assert over == "12:00:00 hello: over"
    assert news.since_last(None) == []


def test_what_others_say_does_not_command_the_terminal() -> None:
    """A machine's last words are shown as they are."""
    assert printable("\x1b[2Jgone\r\nü\x9b") == r"\x1b[2Jgone\r\nü\x9b"
