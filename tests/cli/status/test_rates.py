"""Bytes a second, from what a broker said a moment ago and what it says now."""

from collections.abc import Mapping
from typing import Any

from hook.cli.status.rates import WINDOW_S, Rates, is_copying

DRV = "/nix/store/00000000000000000000000000000001-hello.drv"


def build(sent: int, received: int = 0, machine: str = "b1", since: float = 100.0) -> dict[str, Any]:
    copied = {"sent_bytes": sent, "received_bytes": received}
    return {"derivation": DRV, "since": since, "machine": machine, "phase": "building", **copied}


def overview(now: float, *builds: dict[str, Any], total: int = 0, pid: int = 7) -> dict[str, Any]:
    return {
        "pid": pid,
        "since": 0.0,
        "now": now,
        "machines": [{"machine": "b1"}, {"machine": "b2"}],
        "builds": list(builds),
        "totals": [{"machine": "b1", "sent_bytes": total, "received_bytes": 0}],
    }


def sent(rated: Mapping[str, Any], kind: str) -> list[float]:
    return [each["sent_bytes_per_s"] for each in rated[kind]]


def test_a_rate_takes_two_looks() -> None:
    """Each direction by itself, for the build and for its machine."""
    rates = Rates()
    assert sent(rates.rated(overview(200, build(1000))), "builds") == [0.0]
    rated = rates.rated(overview(202, build(5000, received=30)))
    assert sent(rated, "builds") == [2000.0]
    assert sent(rated, "machines") == [2000.0, 0.0]
    assert rated["builds"][0]["received_bytes_per_s"] == 15.0


def test_only_the_window_counts() -> None:
    """What was copied before it is over, and what has stopped is seen to have stopped."""
    rates = Rates()
    for second in range(20):
        rated = rates.rated(overview(200 + second, build(min(second, 10) * 1000)))
        moving = sum(1 for past in range(int(WINDOW_S)) if 0 < second - past <= 10)
        assert sent(rated, "builds") == [round(moving * 1000 / (min(second, WINDOW_S) or 1), 1)]


def test_a_build_that_is_over_has_counted_for_its_machine() -> None:
    """What it copied is in the totals now, once."""
    rates = Rates()
    rates.rated(overview(200, build(1000)))
    assert sent(rates.rated(overview(201, total=4000)), "machines") == [3000.0, 0.0]


def test_a_machine_that_loses_a_build_sends_nothing_backwards() -> None:
    """The bytes that it had are the other machine's now."""
    rates = Rates()
    rates.rated(overview(200, build(1000, machine="b1")))
    assert sent(rates.rated(overview(201, build(1000, machine="b2"))), "machines") == [0.0, 1000.0]


def test_another_broker_begins_anew() -> None:
    """Its counts have nothing to do with those of the one before."""
    rates = Rates()
    rates.rated(overview(200, total=0))
    assert sent(rates.rated(overview(201, total=9000, pid=8)), "machines") == [0.0, 0.0]


def test_the_same_derivation_twice_is_two_builds() -> None:
    rates = Rates()
    rates.rated(overview(200, build(0, since=1), build(0, since=2)))
    assert sent(rates.rated(overview(201, build(10, since=1), build(20, since=2))), "builds") == [10.0, 20.0]


def test_only_some_phases_copy() -> None:
    assert not is_copying(overview(0, build(0)))
    assert is_copying(overview(0, build(0), {**build(0), "phase": "sending inputs"}))
