"""What `nix-ferry status` makes of a broker's answer."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hook.cli.status import status
from hook.cli.status.live import view
from hook.cli.status.rates import Rates
from hook.cli.status.status import (
    GIVEN_BACK,
    LEFT,
    NO_BROKER,
    News,
    build_rows,
    fates_in,
    headline,
    machine_rows,
    phase,
    screen,
)
from hook.errors import FerryError, printable
from hook.session.record import BUILDS

DRV = "/nix/store/00000000000000000000000000000001-hello.drv"


def build(phase: str = "building", since: float = 100.0, **more: Any) -> dict[str, Any]:
    return {
        "derivation": DRV,
        "machine": "ssh://b1",
        "phase": phase,
        "position": None,
        "obstacle": "",
        "since": since,
        "phase_since": since + 10,
        "sent_bytes": 1000,
        "received_bytes": 0,
        "sent_bytes_per_s": 0.0,
        "received_bytes_per_s": 0.0,
        **more,
    }


def machine(**more: Any) -> dict[str, Any]:
    return {
        "machine": "ssh://b1",
        "state": "works",
        "reason": "",
        "answered_s_ago": 12.0,
        "slots": 4,
        "slots_used": 2,
        "slots_lent": 0,
        "builds_ahead": 0,
        "connections_used": 1,
        "connections_idle": 3,
        "sent_bytes_per_s": 0.0,
        "received_bytes_per_s": 0.0,
        **more,
    }


def overview(*builds: dict[str, Any], machines: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    outcomes = {"built": 5, "failed": 1, "error": 2, "moved": 1, "cancelled": 9}
    totals = [{"machine": "ssh://b1", "builds": outcomes, "sent_bytes": 0, "received_bytes": 0}]
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
    """What it is at, for how long, what was copied and how fast, and since when it goes on."""
    fast = build("fetching outputs", received_bytes_per_s=2e6)
    assert build_rows(overview(build(position=None), fast)) == [
        ("hello", "b1", "building", "1m30s", "1.0 KB", "0 B", "1m40s"),
        ("hello", "b1", "fetching", "1m30s", "1.0 KB", "0 B, 2.0 MB/s", "1m40s"),
    ]


def test_builds_that_wait_are_one_row() -> None:
    """For each machine, and for each reason; below those that get on."""
    first, second = (build("waiting for a slot", since, position=at) for at, since in ((1, 100.0), (2, 110.0)))
    other = build("waiting for a slot", machine="ssh://b2", position=1, obstacle="disabled by the user")
    out = machine(machine="ssh://b2", state="disabled", reason="disabled by the user since 12:00")
    assert build_rows(overview(first, second, other, build("connecting"), machines=(out,))) == [
        ("hello", "b1", "connecting", "1m30s", "1.0 KB", "0 B", "1m40s"),
        ("hello + 1 more", "b1", "waiting", "1m30s", "-", "-", "1m40s"),
        ("hello", "b2", "waiting: disabled", "1m30s", "1.0 KB", "0 B", "1m40s"),
    ]


def test_who_waits_longer_is_no_news() -> None:
    """Nor that others before it do not wait any more."""
    third, second = build("waiting for a slot", position=3), build("waiting for a slot", position=2)
    assert phase(third) == "waiting for a slot on 'ssh://b1'"
    news = News(lambda keys: {}, lambda: "12")
    news.since_last(overview(third))
    assert news.since_last(overview(second)) == []


def test_a_machine_is_a_row() -> None:
    """Its state with the reason, slots with those that are lent, how fast it takes and gives, and what it has done."""
    busy = machine(sent_bytes_per_s=1234.0)
    failed = machine(machine="ssh://b2", state="failed", reason="no route", slots_used=None, slots_lent=1)
    assert machine_rows(overview(machines=(busy, failed))) == [
        ("b1", "answered 12s ago", "2/4", "1/4", "up 1.2 KB/s", "5", "1", "3"),
        ("b2", "failed: no route", "?/4, 1 lent", "1/4", "-", "0", "0", "0"),
    ]


@pytest.mark.parametrize("builds", [2, 40])
def test_eighty_columns_are_enough(builds: int) -> None:
    """For names that tell machines and builds apart, and every number."""
    names = [f"ssh-ng://nix@builder-{number}.example.org" for number in range(3)]
    machines = tuple(machine(machine=name, slots=16, received_bytes_per_s=52e6) for name in names)
    going = [build("fetching outputs", machine=names[0], received_bytes_per_s=52e6, received_bytes=64_000_000)]
    waiting = [build("waiting for a slot", machine=names[1], position=at + 1) for at in range(builds)]
    console = Console(file=io.StringIO(), width=80, height=24, color_system=None)
    with console.capture() as shown:
        console.print(view(screen(overview(*going, *waiting, machines=machines)), console))
    lines = shown.get().splitlines()
    assert len(lines) <= 10
    for said in ("52 MB/s", "2/16", "1/4", "1m40s", f"hello + {builds - 1} more", "waiting", "fetching", "ago"):
        assert said in shown.get()
    assert len({line.split()[0] for line in lines if line.startswith("builder")}) == 3


def test_the_headline_counts() -> None:
    shown = [headline(overview(*[build()] * count)).partition("; ")[2] for count in range(3)]
    assert shown == ["no build is under way", "1 build is under way", "2 builds are under way"]


def test_a_pipe_gets_a_line_for_each_change() -> None:
    """And none for what goes on as before."""
    news = News(lambda keys: fates, lambda: "12:00:00")
    fates = {(DRV, 100.0): "built"}
    assert news.since_last(overview(build("connecting"))) == [
        f"12:00:00 {headline(overview(build()))}",
        "12:00:00 hello: connecting on 'ssh://b1'",
    ]
    assert news.since_last(overview(build("connecting"))) == []
    assert news.since_last(overview(build("building", machine="ssh://b2"), build("connecting", since=101.0))) == [
        "12:00:00 hello: building on 'ssh://b2'",
        "12:00:00 hello: connecting on 'ssh://b1'",
    ]
    assert news.since_last(overview(build("connecting", since=101.0))) == ["12:00:00 hello: built"]
    assert news.since_last(NO_BROKER) == [f"12:00:00 {NO_BROKER}", f"12:00:00 hello: {LEFT}"]
    assert news.since_last(NO_BROKER) == []


def test_how_a_build_ended_is_in_the_record(tmp_path: Path) -> None:
    """In words for each way; one that is not there was never promised, and Nix has it back."""
    entry = {"derivation": DRV, "machine": "ssh://b1", "ended": 2.0, "seconds": {}, "moved_from": []}
    outcomes = [("built", ""), ("failed", "\x1b[31;1mno\x1b[0m"), ("cancelled", "")]
    BUILDS.append(
        str(tmp_path),
        [entry | {"began": 1.0 + at, "outcome": each, "detail": why} for at, (each, why) in enumerate(outcomes)],
    )
    keys = [(DRV, 1.0001), (DRV, 2.0), (DRV, 3.0), (DRV, 4.0)]
    fates = fates_in(str(tmp_path))
    assert fates(keys) == dict(zip(keys, ["built", "failed: no", "cancelled"], strict=False))
    news = News(fates, lambda: "12")
    news.since_last(overview(build(since=4.0)))
    assert news.since_last(overview()) == [f"12 hello: {GIVEN_BACK}"]


def test_a_build_that_waits_for_a_machine_says_why() -> None:
    """There is no slot that it could wait for."""
    waiting = build("waiting for a slot", position=2, obstacle="disabled by the user since 12:00")
    assert phase(waiting) == ("waiting for a machine: 'ssh://b1' is not to be used: disabled by the user since 12:00")


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ({"state": "in use"}, "in use"),
        ({"state": "not asked lately"}, "not asked lately"),
        ({"state": "disabled", "reason": "disabled by the user since 12:00"}, "disabled since 12:00"),
    ],
)
def test_the_state_of_a_machine_is_what_is_known(state: dict[str, str], shown: str) -> None:
    assert machine_rows(overview(machines=(machine(**state),)))[0][1] == shown


def test_a_broker_that_is_replaced_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it leaves it may hang up on whoever asks, which ends nothing."""
    answers = iter([overview(build()), FerryError("it has hung up"), None, {**overview(build()), "pid": 8}])

    def answer(directory: str) -> dict[str, Any] | None:
        match next(answers):
            case FerryError() as error:
                raise error
            case dict() | None as told:
                return told
        raise AssertionError

    monkeypatch.setattr(status, "overview_of", answer)
    monkeypatch.setattr(status, "no_broker", lambda: NO_BROKER)
    monkeypatch.setattr(status, "WATCH_S", 0)
    news = News(lambda keys: {}, lambda: "12:00:00")
    looks = status.looks("/nowhere")
    lines = [[line.removeprefix("12:00:00 ") for line in news.since_last(next(looks))] for _ in range(4)]
    assert lines == [
        [headline(overview(build())), "hello: building on 'ssh://b1'"],
        ["it has hung up", f"hello: {LEFT}"],
        [NO_BROKER],
        [headline({**overview(build()), "pid": 8}), "hello: building on 'ssh://b1'"],
    ]


def test_one_look_takes_a_moment_only_while_something_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no speed at one moment."""
    still = overview(build("building"))
    sending = overview(build("sending inputs"), machines=(machine(),))
    later = {**sending, "now": 202.0, "builds": [build("sending inputs", sent_bytes=9000)]}
    answers = iter([still, sending, later])
    monkeypatch.setattr(status, "overview_of", lambda directory: next(answers))
    monkeypatch.setattr(status, "WATCH_S", 0)
    assert status.look_once("/nowhere") == Rates().rated(still)
    rated = status.look_once("/nowhere")
    assert rated is not None
    assert [each["sent_bytes_per_s"] for each in (*rated["builds"], *rated["machines"])] == [4000.0, 4000.0]


def test_what_others_say_does_not_command_the_terminal() -> None:
    """A machine's last words are shown as they are."""
    assert printable("\x1b[2Jgone\r\nü\x9b") == r"\x1b[2Jgone\r\nü\x9b"


def test_colours_of_nix_are_left_out() -> None:
    """They would be shown as escapes in the middle of a sentence."""
    assert printable("\x1b[31;1merror:\x1b[0m \x1b[35;1m'x'\x1b[m failed") == "error: 'x' failed"
