"""What is told of builds while they happen and afterwards, by real hooks, with and without a broker."""

import fcntl
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hook.broker.client import overview_of
from hook.broker.overview import overview
from hook.machines.builders import parse_machines
from hook.machines.disabled import Disabled
from hook.machines.health import Health
from hook.machines.identity import MachineInUse
from hook.session.hub import new_hub
from hook.session.ledger import Phase
from hook.session.record import BUILDS, DECISIONS
from hook.transfer.meter import Meter
from tests.fakes.bench import Bench
from tests.lab.container import wait_until


def name(machine: str) -> str:
    return machine.partition(" ")[0]


def told(bench: Bench) -> dict[str, Any]:
    """What the broker says, which also has it write its record."""
    overview = overview_of(str(bench.hook_state / "nix-ferry"))
    assert overview is not None
    return overview


def record(bench: Bench) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Builds that are over, and decisions."""
    directory = bench.store.state / "nix-ferry"
    if bench.broker:
        told(bench)
        directory = bench.hook_state / "nix-ferry"
    return list(BUILDS.read(str(directory))), list(DECISIONS.read(str(directory)))


def test_a_build_leaves_a_line_with_what_it_cost(bench: Bench) -> None:
    """And another one that says why it went there."""
    good, other = bench.machine("ok", speed=9), bench.machine("ok", "other")
    assert bench.build(good, other).status == 0
    ((over,), (decision,)) = record(bench)
    assert (over["derivation"], over["machine"]) == (bench.store.drv_path, name(good))
    assert (over["outcome"], over["detail"], over["moved_from"]) == ("built", "", [])
    assert over["began"] <= over["ended"]
    assert {"connecting", "sending inputs", "building", "fetching outputs", "registering"} <= over["seconds"].keys()
    assert sum(over["seconds"].values()) == pytest.approx(over["ended"] - over["began"], abs=0.01)
    assert over["sent_bytes"] == bench.store.nar_size(bench.store.source)
    assert over["received_bytes"] == sum(bench.store.nar_size(path) for path in bench.store.outputs.values())
    assert (decision["derivation"], decision["answer"]) == (bench.store.drv_path, "accept")
    assert [machine["machine"] for machine in decision["machines"]] == [name(good), name(other)]
    assert decision["machines"][0]["reason"].startswith("chosen: ")


def test_a_failing_derivation_is_told_from_a_failing_machine(bench: Bench) -> None:
    """Only one of them is the fault of its author."""
    failing, dying = bench.machine("build-fails"), bench.machine("die-build_derivation")
    assert bench.build(failing).status == 1
    assert bench.build(dying).status == 1
    failed, error = record(bench)[0]
    assert (failed["machine"], failed["outcome"]) == (name(failing), "failed")
    assert "builder failed with exit code 3" in failed["detail"]
    assert (error["machine"], error["outcome"], error["moved_from"]) == (name(dying), "error", [name(dying)])


def test_a_machine_that_was_lost_is_remembered(bench: Bench) -> None:
    """The build itself went well, elsewhere."""
    bad, good = bench.machine("die-nar_from_path", speed=9), bench.machine("ok")
    assert bench.build(bad, good).status == 0
    (over,) = record(bench)[0]
    assert (over["machine"], over["outcome"], over["moved_from"]) == (name(good), "built", [name(bad)])


def test_what_was_refused_is_remembered_with_its_reason(bench: Bench) -> None:
    """There is no build of it."""
    machine = bench.machine("ok")
    assert bench.hook(bench.preamble([machine]) + bench.request(features=["kvm"])).answers == ["# decline"]
    over, (decision,) = record(bench)
    assert over == []
    assert decision["answer"] == "decline"
    assert decision["machines"] == [{"machine": name(machine), "reason": "lacks feature 'kvm'"}]


def test_what_cannot_be_written_costs_no_build(bench: Bench) -> None:
    """Nobody needs history more than builds."""
    for directory in (bench.store.state, bench.hook_state):
        (directory / "nix-ferry/builds.jsonl").mkdir(parents=True)
        (directory / "nix-ferry/decisions.jsonl").mkdir()
        os.chmod(directory / "nix-ferry", 0o700)
    assert bench.build(bench.machine("ok")).status == 0
    assert bench.outputs_valid()


def test_a_broker_tells_of_a_build_that_waits(brokered: Bench) -> None:
    """Then of one that is over; machines with what is known of them, slots with whoever uses them."""
    machine = brokered.machine("ok", jobs=1)
    brokered.build(machine)
    data = brokered.preamble([machine]) + brokered.request() + brokered.job()
    with brokered.take_slot(machine) as slot, brokered.start(data) as hook:
        assert hook.stderr is not None
        while hook.stderr.readline() != b"# accept\n":
            pass
        # What it needs to know first, Nix says after the answer.
        wait_until(lambda: told(brokered)["builds"][0]["phase"] == "waiting for a slot", "the line for a slot")
        overview = told(brokered)
        (build,) = overview["builds"]
        assert build["derivation"] == brokered.store.drv_path
        assert (build["position"], build["obstacle"]) == (1, "")
        (shown,) = overview["machines"]
        assert (shown["machine"], shown["state"], shown["slots"], shown["slots_used"]) == (
            name(machine),
            "works",
            1,
            1,
        )
        slot.close()
        hook.stderr.read()
    overview = told(brokered)
    assert (overview["builds"], overview["pid"]) == ([], brokered.broker_pid())
    (shown,) = overview["machines"]
    assert (shown["slots_used"], shown["slots_lent"], shown["builds_ahead"]) == (0, 0, 0)
    assert (shown["connections_used"], shown["connections_idle"]) == (0, 1)
    (total,) = overview["totals"]
    assert total["builds"]["built"] == 2
    assert overview["answers"] == {"accept": 2}


def test_a_build_that_waits_for_a_machine_that_is_disabled_tells_so(brokered: Bench) -> None:
    """There will be no slot for it before somebody enables the machine."""
    machine = brokered.machine("ok", jobs=1)
    brokered.build(machine)
    data = brokered.preamble([machine]) + brokered.request() + brokered.job()
    with brokered.take_slot(machine), brokered.start(data) as hook:
        assert hook.stderr is not None
        while hook.stderr.readline() != b"# accept\n":
            pass
        wait_until(lambda: told(brokered)["builds"][0]["phase"] == "waiting for a slot", "the line for a slot")
        ((parsed,), _) = parse_machines(machine, default_system="x86_64-linux", release=(2, 34), read_file=str)
        disabled = Disabled(str(brokered.store.state / "nix-ferry"))
        disabled.add(parsed)
        overview = told(brokered)
        assert overview["builds"][0]["obstacle"] == overview["machines"][0]["reason"] == disabled.reason(parsed)
        disabled.remove(parsed)
        assert told(brokered)["builds"][0]["obstacle"] == ""
        hook.kill()


def test_a_build_that_another_machine_may_have_does_not_wait_for_one_that_is_disabled(brokered: Bench) -> None:
    """It goes where a slot is free first."""
    machines = [brokered.machine("ok", each, jobs=1) for each in ("one", "two")]
    brokered.build(*machines)
    data = brokered.preamble(machines) + brokered.request() + brokered.job()
    with brokered.take_slot(machines[0]), brokered.take_slot(machines[1]), brokered.start(data) as hook:
        assert hook.stderr is not None
        while hook.stderr.readline() != b"# accept\n":
            pass
        wait_until(lambda: told(brokered)["builds"][0]["phase"] == "waiting for a slot", "the line for a slot")
        disabled = Disabled(str(brokered.store.state / "nix-ferry"))
        parsed, _ = parse_machines("\n".join(machines), default_system="x", release=(2, 34), read_file=str)
        for machine, other in zip(parsed, reversed(machines), strict=True):
            disabled.add(machine)
            (build,) = told(brokered)["builds"]
            assert (build["machine"], build["obstacle"]) == (name(other), "")
            disabled.remove(machine)
        for machine in parsed:
            disabled.add(machine)
        assert "disabled" in told(brokered)["builds"][0]["obstacle"]
        hook.kill()


def test_a_machine_that_builds_is_in_use_however_long_ago_it_answered() -> None:
    """A build may be silent for hours; without one nothing is known after a minute."""
    now = [1000.0]
    hub = replace(new_hub(lasting=True), health=Health(lambda: now[0]))
    ((parsed,), _) = parse_machines("ssh://b1", default_system="x", release=(2, 34), read_file=str)
    hub.ledger.meet("/", [MachineInUse("ssh://b1", parsed, "h", "a", "stem", "/nowhere", "/nowhere")])
    hub.health.worked("h")
    now[0] += 3600
    (idle,) = overview(hub)["machines"]
    assert (idle["state"], idle["answered_s_ago"]) == ("not asked lately", 3600)
    conversation = hub.ledger.conversation(Meter())
    conversation.begin("/nix/store/x.drv", "ssh://b1")
    conversation.enter(Phase.BUILDING)
    assert overview(hub)["machines"][0]["state"] == "in use"
    now[0] += 1
    hub.health.worked("h")
    assert overview(hub)["machines"][0]["state"] == "works"


def test_a_broker_tells_of_a_machine_that_failed(brokered: Bench) -> None:
    """With the reason, and when it is tried again."""
    brokered.ask(brokered.machine("no-nix"))
    overview = told(brokered)
    (shown,) = overview["machines"]
    assert shown["state"] == "failed"
    assert "command not found" in shown["reason"]
    assert "next try in" in shown["reason"]
    assert overview["builds"] == []


def test_a_build_that_is_given_up_is_over(brokered: Bench) -> None:
    """Nix kills the hook; the broker remembers that it did."""
    machine = brokered.machine("ok", jobs=1)
    data = brokered.preamble([machine]) + brokered.request() + brokered.job()
    brokered.build(machine)
    with brokered.take_slot(machine), brokered.start(data) as hook:
        assert hook.stderr is not None
        while hook.stderr.readline() != b"# accept\n":
            pass
        hook.kill()
    wait_until(lambda: told(brokered)["builds"] == [], "the end of the build")
    assert [over["outcome"] for over in record(brokered)[0]] == ["built", "cancelled"]


def test_a_hook_that_was_stopped_while_it_chose_keeps_no_answer_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks gives up after ten seconds: the slots of all machines together are waited for once."""
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    (tmp_path / "current-load").mkdir()
    hub = new_hub(lasting=True)
    text = "ssh://b1\nssh://b2\nssh://b3"
    machines, _ = parse_machines(text, default_system="x", release=(2, 34), read_file=str)
    state = str(tmp_path)
    hub.ledger.meet(state, [MachineInUse(m.uri.text, m, m, m, m.uri.host, state, state) for m in machines])
    with (tmp_path / "current-load/main-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [shown["slots_used"] for shown in overview(hub)["machines"]] == [None] * 3
    assert sum(pauses) <= 3
    assert [shown["slots_used"] for shown in overview(hub)["machines"]] == [0] * 3
