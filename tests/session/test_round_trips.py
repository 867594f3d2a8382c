"""What of a build is asked together, what is not asked again, and what becomes of answers that nobody needs any more.

Whole sessions against scripted machines, as in test_session.py; the machine answers some requests only when the next
one has arrived.
"""

import os
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fakes.bench import Bench

CONNECT = ["add_temp_root"]
"""What a new connection is asked, to see whether it leads to our own store."""

BUILD = ["build_derivation", "query_path_info", "nar_from_path"]
"""All that a build needs whose inputs are there."""


def test_a_build_and_its_only_output_take_one_round_trip(bench: Bench) -> None:
    """Over a long link that is most of what a small build takes."""
    machine = bench.machine("expect-more-build_derivation,expect-more-query_path_info")
    drv_path, path = bench.store.add_derivation("single")
    assert bench.build(machine, drv_path=drv_path).status == 0
    assert bench.store.content(path) == path
    assert bench.asked()[-4:] == ["add_multiple_to_store", *BUILD]


def test_of_several_outputs_first_the_infos_and_then_the_nars_are_asked_for_together(bench: Bench) -> None:
    """Which of them refers to which is not known before."""
    operations = ("build_derivation", "query_path_info", "nar_from_path")
    machine = bench.machine(",".join(f"expect-more-{operation}" for operation in operations))
    assert bench.build(machine).status == 0
    assert bench.outputs_valid()
    assert bench.asked()[-5:] == ["build_derivation", *["query_path_info"] * 2, *["nar_from_path"] * 2]


@pytest.mark.parametrize("behaviour", ["ok", "nix-2.8"])
def test_what_was_brought_there_or_built_there_is_known_to_be_there(brokered: Bench, behaviour: str) -> None:
    """The next build over a connection reads both, and asks about neither."""
    machine = brokered.machine(behaviour)
    first, built = brokered.store.add_derivation("first")
    second, path = brokered.store.add_derivation("second")
    assert brokered.build(machine, drv_path=first).status == 0
    brokered.asked()
    data = brokered.preamble([machine]) + brokered.request(second) + brokered.job(inputs=[built])
    assert brokered.hook(data).status == 0
    assert brokered.store.content(path) == path
    assert brokered.asked() == BUILD
    assert brokered.connections() == 1


def test_a_lone_hook_knows_nothing(tmp_path: Path) -> None:
    """Nobody told it."""
    with Bench(tmp_path, broker=False) as bench:
        for name in ("first", "second"):
            drv_path, _ = bench.store.add_derivation(name)
            assert bench.build(bench.machine("ok"), drv_path=drv_path).status == 0
            asked = bench.asked()
            assert asked[:2] == [*CONNECT, "query_valid_paths"]
            assert asked[-4:] == ["add_multiple_to_store", *BUILD]


def test_an_input_that_was_collected_there_is_brought_again_unnoticed(brokered: Bench) -> None:
    """Its user has neither to know that the machine collects garbage nor that something was remembered."""
    machine = brokered.machine("collects-garbage")
    first, _ = brokered.store.add_derivation("first")
    second, path = brokered.store.add_derivation("second")
    expected = brokered.build(machine, drv_path=first)
    brokered.asked()
    outcome = brokered.build(machine, drv_path=second)
    assert outcome.status == 0
    assert brokered.store.content(path) == path
    assert outcome.messages == expected.messages.replace(first, second)
    # What was asked with the build that failed may be read late, or not at all: that connection is closed.
    asked = Counter(brokered.asked())
    assert (asked["build_derivation"], asked["query_valid_paths"], asked["add_multiple_to_store"]) == (2, 2, 1)


def test_a_build_that_fails_with_all_inputs_there_is_not_repeated(bench: Bench) -> None:
    """What looks like a missing input may be something else, for example a system that the machine does not have."""
    outcome = bench.build(bench.machine("cannot-build"))
    assert outcome.status == 1
    assert outcome.messages.count("cannot build such a thing") == 1
    assert "was lost" not in outcome.messages
    assert not bench.outputs_valid()


def test_an_input_that_another_build_has_brought_meanwhile_may_have_been_missing(
    brokered: Bench, tmp_path: Path
) -> None:
    """The machine, asked what it lacks, says nothing then; the build failed for want of it all the same."""
    gate, life, missed = tmp_path / "gate", tmp_path / "life", tmp_path / "missed"
    os.mkfifo(gate)
    os.mkfifo(life)
    missed.touch()
    large = brokered.store.add(b"x" * 1000, "large")
    first, path = brokered.store.add_derivation("first")
    second, _ = brokered.store.add_derivation("second")
    preamble = brokered.preamble([brokered.machine("lacks-large,misses-once,gated-build_derivation")])
    data = preamble + brokered.request(first) + brokered.job()
    environ = {"GATE": str(gate), "LIFE": str(life), "MISSED": str(missed)}
    with brokered.start(data, **environ) as hook, life.open() as daemon:
        assert hook.stderr is not None
        assert daemon.readline() == "waiting\n"
        request = preamble + brokered.request(second) + brokered.job(inputs=[large])
        with brokered.start(request, GATE=os.devnull) as other:
            other.communicate()
        # Open from now on, for whoever comes.
        while hook.poll() is None:
            with suppress(OSError):
                os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
            time.sleep(0.005)
        said = hook.stderr.read().decode()
    assert (hook.returncode, other.returncode) == (0, 0), said
    assert "error" not in said
    assert "was lost" not in said
    assert brokered.store.content(path) == path


def test_a_failure_for_want_of_inputs_is_not_that_of_another_machine(brokered: Bench, tmp_path: Path) -> None:
    """It has them all, and the build is new to it."""
    missed = tmp_path / "missed"
    missed.touch()
    data = brokered.preamble([brokered.machine("misses-once,then-dies", speed=9), brokered.machine("lacks-large")])
    outcome = brokered.hook(data + brokered.request() + brokered.job(), MISSED=str(missed))
    assert outcome.status == 0, outcome.messages
    assert outcome.messages.count("was lost") == 1
    assert brokered.outputs_valid()


def test_a_build_that_a_full_disk_ends_moves(bench: Bench) -> None:
    """Nix gives no other status to what its database has no room for than to inputs that are not there."""
    outcome = bench.build(bench.machine("lacks-large,cannot-register"), bench.machine("ok"))
    assert outcome.status == 0
    assert "was lost (its disk is full:" in outcome.messages
    assert bench.outputs_valid()


@pytest.mark.parametrize("behaviour", ["build-fails", "cannot-build", "refuse-build_derivation"])
def test_after_a_failure_no_answer_is_taken_for_another_one(brokered: Bench, behaviour: str) -> None:
    """The daemon goes on to answer what was asked with the build, and breaks off."""
    failing, _ = brokered.store.add_derivation("failing")
    machine = brokered.machine(behaviour)
    for _ in range(2):
        outcome = brokered.build(machine, drv_path=failing)
        assert outcome.status == 1
        assert "not valid" not in outcome.messages
    assert brokered.connections() >= 2
    assert brokered.build(machine.replace(behaviour, "ok"), drv_path=failing).status == 0


def test_an_output_that_became_valid_during_the_build_is_left_alone(bench: Bench, tmp_path: Path) -> None:
    """Its bytes are on the way; nobody may take them for the answer to something else."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    content = b"made elsewhere"
    drv_path, path = bench.store.add_derivation("single")
    machine = bench.machine("gate-build_derivation")
    data = bench.preamble([machine]) + bench.request(drv_path) + bench.job()
    hook = bench.start(data, GATE=str(gate))
    assert hook.stdin is not None
    assert hook.stderr is not None
    hook.stdin.close()
    with gate.open("w"):
        bench.store.register(path, content)
    said = hook.stderr.read().decode()
    hook.stderr.close()
    assert hook.wait() == 0, said
    assert "copying path" not in said.split("# accept")[1].split("a line of the log")[1]
    assert bench.store.content(path) == content.decode()
    other, path = bench.store.add_derivation("other")
    with_gate = bench.start(bench.preamble([machine]) + bench.request(other) + bench.job(), GATE=str(gate))
    assert with_gate.stdin is not None
    assert with_gate.stderr is not None
    with_gate.stdin.close()
    gate.write_text("")
    said = with_gate.stderr.read().decode()
    with_gate.stderr.close()
    assert with_gate.wait() == 0, said
    assert bench.store.content(path) == path


@pytest.mark.parametrize("name", ["tiny", "single"])
def test_a_machine_that_was_asked_for_what_it_failed_to_build_is_connected_to_anew(brokered: Bench, name: str) -> None:
    """It remembers that the output is not there, whoever has built it since."""
    drv_path = brokered.store.drv_path if name == "tiny" else brokered.store.add_derivation(name)[0]
    machine = brokered.machine("build-fails")
    for _ in range(2):
        assert brokered.build(machine, drv_path=drv_path).status == 1
    assert brokered.connections() == 2


def test_limits_are_set_once_on_a_connection(brokered: Bench) -> None:
    """They belong to what makes two connections different."""
    for name in ("first", "second"):
        drv_path, _ = brokered.store.add_derivation(name)
        assert brokered.build(brokered.machine("ok"), drv_path=drv_path, timeout="77").status == 0
    assert brokered.asked().count("set_options") == 1
