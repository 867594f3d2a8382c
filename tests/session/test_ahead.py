"""Whole sessions that wait for a slot in the broker: their inputs travel, and the build goes where a slot is free.

The test itself keeps the slots of the scripted machines, as stock hooks would.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hook.broker.client import overview_of
from hook.session.record import BUILDS
from tests.fakes.bench import Bench

WAITS = "waits for a slot on"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path, broker=True) as bench:
        yield bench


class Slot:
    """The only slot of a machine, which is busy until `free`."""

    def __init__(self, bench: Bench, behaviour: str, name: str = "", speed: int = 1) -> None:
        self.machine = bench.machine(behaviour, name, speed, jobs=1)
        self.name = self.machine.split()[0]
        self._lock = bench.take_slot(self.machine)

    def free(self) -> None:
        self._lock.close()


class Waiting:
    """A hook whose build waits; `said` is what Nix has read of it."""

    def __init__(self, bench: Bench, *slots: Slot) -> None:
        data = bench.preamble([slot.machine for slot in slots]) + bench.request() + bench.job()
        self._hook: subprocess.Popen[bytes] = bench.start(data)
        assert self._hook.stdin is not None
        self._hook.stdin.close()
        self.said = ""
        self._read(until=WAITS)

    def _read(self, until: str | None = None) -> None:
        assert self._hook.stderr is not None
        for line in self._hook.stderr:
            self.said += line.decode()
            if until is not None and until in line.decode():
                return
        assert until is None, self.said

    def end(self) -> int:
        """Read on to the end; returns the hook's status."""
        self.said = ""
        with self._hook:
            self._read()
        return self._hook.returncode


def copied(bench: Bench, slot: Slot) -> str:
    return f"copying path '{bench.store.source}' to '{slot.name}'"


def test_inputs_travel_while_a_build_waits(bench: Bench) -> None:
    """Over the connection on which it is built afterwards; nothing is asked twice, let alone sent."""
    slot = Slot(bench, "ok")
    waiting = Waiting(bench, slot)
    assert copied(bench, slot) in waiting.said
    assert f"'{bench.store.drv_path}' {WAITS} '{slot.name}'" in waiting.said
    assert not bench.outputs_valid()
    slot.free()
    assert waiting.end() == 0
    assert "copying path '/nix/store" in waiting.said
    assert bench.store.source not in waiting.said
    assert "connecting to" not in waiting.said
    assert bench.outputs_valid()
    assert bench.held_slots() == []


def test_a_build_moves_to_the_machine_that_is_free_first(bench: Bench) -> None:
    """Its inputs were for nothing on the first; the connection there is kept for others."""
    fast, slow = Slot(bench, "ok", "fast", speed=2), Slot(bench, "ok", "slow")
    waiting = Waiting(bench, fast, slow)
    assert copied(bench, fast) in waiting.said
    slow.free()
    assert waiting.end() == 0
    assert copied(bench, slow) in waiting.said
    assert f"is built on '{slow.name}', which was free first" in waiting.said
    assert bench.outputs_valid()
    fast.free()
    again = bench.build(fast.machine)
    assert again.status == 0
    assert "connecting to" not in " ".join(again.texts)


def test_a_slot_is_no_use_to_a_build_whose_inputs_travel(bench: Bench, tmp_path: Path) -> None:
    """Another one that has nothing to send runs in it meanwhile; here the upload does not end at all."""
    bench.configure("look-ahead = 2\n")
    machine = bench.machine("lacks-large,hang-add_multiple_to_store", jobs=1)
    large = bench.store.add(b"x" * (1 << 20), "large")
    request = bench.preamble([machine]) + bench.request()
    os.mkfifo(life := tmp_path / "life")
    with bench.start(request + bench.job(inputs=[large]), LIFE=str(life)) as uploading, life.open() as daemon:
        assert daemon.readline() == "hanging\n"
        with bench.start(request + bench.job()) as other:
            assert other.stderr is not None
            other.stderr.read()
        assert other.returncode == 0
        assert bench.outputs_valid()
        uploading.kill()
        daemon.read()
    assert bench.held_slots() == []


@pytest.mark.parametrize("behaviour", ["die-query_valid_paths", "die-add_multiple_to_store", "no-nix"])
def test_a_machine_that_fails_while_inputs_travel_is_replaced(bench: Bench, behaviour: str) -> None:
    """The build waits on, with its inputs elsewhere."""
    broken, good = Slot(bench, behaviour, speed=9), Slot(bench, "ok")
    waiting = Waiting(bench, broken, good)
    assert waiting.said.count("was lost") == 1
    assert copied(bench, good) in waiting.said
    broken.free()
    good.free()
    assert waiting.end() == 0
    assert bench.outputs_valid()


@pytest.mark.parametrize("look_ahead", [0, 1], ids=["inputs nowhere", "inputs there"])
def test_a_loss_is_that_of_the_machine_that_was_lost(bench: Bench, look_ahead: int) -> None:
    """Not of the one that Nix was told, or that has the inputs, and that is only busy."""
    bench.configure(f"look-ahead = {look_ahead}\n")
    busy, dead = Slot(bench, "ok", speed=9), Slot(bench, "no-nix")
    data = bench.preamble([busy.machine, dead.machine]) + bench.request() + bench.job()
    with bench.start(data) as hook:
        assert hook.stderr is not None
        lines = iter(line.decode() for line in hook.stderr)
        assert any(line == "# accept\n" for line in lines)
        assert next(lines) == f"{busy.name}\n"
        assert not look_ahead or any(WAITS in line for line in lines)
        dead.free()
        assert any(f"cannot build on '{dead.name}'" in line for line in lines)
        busy.free()
        (said,) = [line for line in lines if "was lost" in line]
    assert hook.returncode == 0
    assert f"'{dead.name}' was lost (" in said
    assert f"); building on '{busy.name}'" in said
    overview_of(str(bench.hook_state / "nix-ferry"))
    (entry,) = BUILDS.read(str(bench.hook_state / "nix-ferry"))
    assert entry["moved_from"] == [dead.name]
    assert entry["machine"] == busy.name


def test_a_connection_that_breaks_while_a_build_waits_costs_one_try(bench: Bench) -> None:
    """Noticed when the slot comes; then the inputs travel again."""
    slot = Slot(bench, "ok")
    waiting = Waiting(bench, slot)
    broker = bench.broker_pid()
    for task in Path(f"/proc/{broker}/task").iterdir():
        with suppress(FileNotFoundError):
            for child in (task / "children").read_text().split():
                os.kill(int(child), 9)
    slot.free()
    assert waiting.end() == 0
    assert waiting.said.count("was lost") == 1
    assert copied(bench, slot) in waiting.said
    assert bench.outputs_valid()


def test_an_input_that_is_damaged_ends_the_build_before_it_has_a_slot(bench: Bench) -> None:
    """No machine could do better."""
    damaged = bench.store.real / Path(bench.store.source).name
    damaged.chmod(0o644)
    damaged.write_bytes(b"other\n")
    slot = Slot(bench, "ok")
    data = bench.preamble([slot.machine]) + bench.request() + bench.job()
    with bench.start(data) as hook:
        assert hook.stderr is not None
        assert b"was modified" in hook.stderr.read()
    assert hook.returncode == 1
    slot.free()
    assert bench.held_slots() == []


def test_no_look_ahead_if_so_configured(bench: Bench) -> None:
    """The build waits, and nothing of it is on the machine before."""
    bench.configure("look-ahead = 0\n")
    slot = Slot(bench, "ok")
    data = bench.preamble([slot.machine]) + bench.request() + bench.job()
    with bench.start(data) as hook:
        assert hook.stderr is not None
        assert any(line == b"# accept\n" for line in hook.stderr)
        slot.free()
        assert WAITS.encode() not in hook.stderr.read()
    assert bench.outputs_valid()
