"""Machines that do not trust the user: what is sent to them, and what the user reads when they refuse.

Whole sessions against scripted machines, as in test_session.py; real daemons follow in tests/lab and tests/parity.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.bench import HOOK, Bench, Outcome

PATIENT = f"""#!{sys.executable}
import sys
from hook.remote import proof
from %s import main

proof.ANSWER_S = 60.0
sys.exit(main())
"""
"""A program that lets machines take their time for a proof that they are there, however slow this host is."""


def patient(root: Path) -> str:
    """The hook, with such programs beside it."""
    directory = root / "patient"
    directory.mkdir()
    for name, module in (("broker", "hook.broker.main"), ("standalone", "hook.broker.standalone")):
        program = directory / f"nix-ferry-{name}"
        program.write_text(PATIENT % module)
        program.chmod(0o755)
    return str(shutil.copy2(HOOK, directory))


@pytest.fixture(params=["standalone", "broker"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    with Bench(tmp_path, broker=request.param == "broker", program=patient(tmp_path)) as bench:
        yield bench


@pytest.fixture
def brokered(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path, broker=True, program=patient(tmp_path)) as bench:
        yield bench


def uploaded(texts: list[str]) -> list[str]:
    """The paths that were copied to a machine, in order."""
    return [text.split("'")[1] for text in texts if text.startswith("copying path") and " to " in text]


def test_an_untrusting_machine_gets_the_derivation_itself(bench: Bench) -> None:
    """It believes nobody what an input-addressed path should contain, so it computes that itself."""
    outcome = bench.build(bench.machine("untrusting"))
    assert outcome.status == 0
    assert uploaded(outcome.texts) == [bench.store.source, bench.store.drv_path]
    assert bench.outputs_valid()


def test_a_trusting_machine_does_not_get_the_derivation(bench: Bench) -> None:
    """As stock: the derivation's closure can be large, and is needed by nobody there."""
    assert uploaded(bench.build(bench.machine("ok")).texts) == [bench.store.source]


def test_content_addressed_outputs_need_no_trust(bench: Bench) -> None:
    """What a path should contain follows from the path."""
    drv_path, _ = bench.store.add_floating("Realisations")
    outcome = bench.build(bench.machine("untrusting"), drv_path=drv_path, experimental_features="ca-derivations")
    assert outcome.status == 0
    assert uploaded(outcome.texts) == [bench.store.source]


def test_a_failure_there_is_reported_in_stocks_words(bench: Bench) -> None:
    """Stock goes on to copy outputs that are not there, and reports that instead."""
    outcome = bench.build(bench.machine("untrusting,build-fails"), bench.machine("ok", "other"))
    assert outcome.status == 1
    assert f"build of '{bench.store.drv_path}' on 'ssh-ng://localhost" in outcome.messages
    assert outcome.messages.count("builder failed with exit code 3") == 1
    assert "not valid" not in outcome.messages


REFUSALS = {
    "untrusting,wants-signatures": "lacks a signature by a trusted key",
    "nix-2.8,untrusting": "you are not privileged to build input-addressed derivations",
}


@pytest.mark.parametrize("behaviour", sorted(REFUSALS))
def test_a_refusal_names_what_can_be_done_about_it(bench: Bench, behaviour: str) -> None:
    """One line with the cause and the remedy; asking the same machine again would not help."""
    outcome = bench.build(bench.machine(behaviour))
    assert outcome.status == 1
    (line,) = [line for line in outcome.messages.splitlines() if REFUSALS[behaviour] in line and "error:" in line]
    assert f"build of '{bench.store.drv_path}' on 'ssh-ng://localhost" in line
    assert "`trusted-users`" in line
    assert outcome.messages.count("was lost") == 0
    assert not bench.outputs_valid()


@pytest.mark.parametrize("behaviour", sorted(REFUSALS))
def test_a_machine_that_trusts_us_takes_over(bench: Bench, behaviour: str) -> None:
    outcome = bench.build(bench.machine(behaviour, speed=9), bench.machine("ok"))
    assert outcome.status == 0
    assert outcome.messages.count("`trusted-users`") == 1
    assert bench.outputs_valid()


@pytest.mark.parametrize(
    "behaviour", ["refuse-build_paths_with_results", "die-build_paths_with_results", "two-results"]
)
def test_an_untrusting_machine_that_is_lost_is_replaced(bench: Bench, behaviour: str) -> None:
    outcome = bench.build(bench.machine(f"untrusting,{behaviour}", speed=9), bench.machine("untrusting"))
    assert outcome.status == 0
    assert "was lost" in outcome.messages
    assert bench.outputs_valid()


def test_a_machine_that_takes_a_sound_input_for_a_damaged_one_is_left(bench: Bench) -> None:
    """What it says is looked into, and is not true: another machine can do better."""
    outcome = bench.build(bench.machine("accuses", speed=9), bench.machine("ok"))
    assert outcome.status == 0
    assert "was lost (it refused an input: hash mismatch importing path" in outcome.messages
    assert "was modified" not in outcome.messages
    assert bench.outputs_valid()


@pytest.mark.parametrize("behaviour", ["trusts-once", "fills-up"])
def test_what_an_old_connection_is_refused_is_tried_on_a_new_one(brokered: Bench, behaviour: str) -> None:
    """The machine may have been mended, or have room when the old ones have been let go; nobody hears of it."""
    machine = brokered.machine(behaviour)
    for name in ("first", "second", "third"):
        drv_path, output = brokered.store.add_derivation(name)
        outcome = brokered.build(machine, drv_path=drv_path)
        assert outcome.status == 0
        assert "was lost" not in outcome.messages
        assert output in brokered.store.valid()
    assert brokered.connections() == 3


@pytest.mark.parametrize(("behaviour", "connections"), [("nix-2.8,untrusting", 1), ("always-full", 2)])
def test_what_a_new_connection_is_refused_is_refused(brokered: Bench, behaviour: str, connections: int) -> None:
    """Nothing was mended; a full disk is believed when nothing of ours is left there."""
    outcome = brokered.build(brokered.machine(behaviour, speed=9), brokered.machine("ok"))
    assert outcome.status == 0
    assert outcome.messages.count("was lost") == 1
    assert brokered.connections() == connections + 1


def test_without_a_broker_nothing_is_kept_there_that_could_be_let_go(bench: Bench) -> None:
    """A full disk is believed at once; with one, it is tried once more."""
    assert bench.build(bench.machine("always-full")).status == 1
    assert bench.connections() == (2 if bench.broker else 1)


# Where this host could build it


def ask(bench: Bench, *machines: str) -> Outcome:
    """A conversation with a Nix that has jobs of its own, up to the answer."""
    return bench.hook(bench.preamble(machines, max_jobs="1") + bench.request())


def test_a_build_with_unsigned_inputs_is_not_given_to_a_machine_that_would_refuse_them(bench: Bench) -> None:
    """Nix builds it itself, and its user can read why."""
    bench.store.vouch(bench.store.source)
    outcome = ask(bench, bench.machine("untrusting"))
    assert outcome.answers == ["# decline"]
    why = "it does not trust the user that logs in there, and nobody has signed the input"
    assert f"': {why} '{bench.store.source}'" in outcome.messages
    assert "error:" not in outcome.messages


@pytest.mark.parametrize(
    ("behaviour", "signatures"), [("untrusting", ["key:c2ln"]), ("untrusting,lacks-large", []), ("ok", [])]
)
def test_what_it_has_or_somebody_has_signed_is_given_to_it(bench: Bench, behaviour: str, signatures: list[str]) -> None:
    """Whose signatures it accepts is not known here."""
    bench.store.vouch(bench.store.source, "", *signatures)
    assert ask(bench, bench.machine(behaviour)).answers == ["# accept"]


def test_a_machine_that_does_not_say_what_it_has_is_out_and_the_next_one_is_asked(bench: Bench) -> None:
    """That is its trouble alone."""
    bench.store.vouch(bench.store.source)
    silent = bench.machine("untrusting,refuse-query_valid_paths", speed=9)
    outcome = ask(bench, silent, bench.machine("ok", "other"))
    assert outcome.messages.count("cannot build on") == 1
    assert "it does not say what it has: not today" in outcome.messages
    assert outcome.lines[outcome.lines.index("# accept") + 1].endswith("%20ok%20other")


def test_where_another_machine_trusts_us_that_one_has_it(bench: Bench) -> None:
    bench.store.vouch(bench.store.source)
    outcome = ask(bench, bench.machine("untrusting", speed=9), bench.machine("ok", "other"))
    assert outcome.lines[outcome.lines.index("# accept") + 1].endswith("%20ok%20other")


def test_a_build_does_not_wait_for_a_machine_that_would_refuse_it(bench: Bench) -> None:
    """The one that was to have it is lost for good, and no other is left; it ends with the reason, instead of never."""
    bench.store.vouch(bench.store.source)
    machines = bench.machine("untrusting", speed=9), bench.machine("die-build_derivation", "other")
    outcome = bench.build(*machines, max_jobs="1")
    assert outcome.answers == ["# accept"]
    assert outcome.status == 1
    (line,) = [line for line in outcome.messages.splitlines() if "failed:" in line]
    assert "%20other' failed: " in line
    assert "Connection reset by peer" in line


@pytest.mark.parametrize("behaviour", sorted(REFUSALS))
def test_a_refusal_is_remembered_for_a_while(brokered: Bench, behaviour: str) -> None:
    """Older daemons, and all of them over ssh, do not say whom they trust."""
    brokered.store.vouch(brokered.store.source)
    machine = brokered.machine(behaviour)
    assert brokered.build(machine).status == 1
    outcome = ask(brokered, machine)
    assert outcome.answers == ["# decline"]
    assert outcome.messages.count("trust") >= 1


def test_a_machine_that_does_not_say_whether_it_trusts_us_gets_a_chance(bench: Bench) -> None:
    """Most do."""
    bench.store.vouch(bench.store.source)
    assert ask(bench, bench.machine("nix-2.8")).answers == ["# accept"]


def test_a_build_that_failed_does_not_tell_how_long_others_take(brokered: Bench, tmp_path: Path) -> None:
    """It may have failed at its very beginning, and the next one has the slot for hours."""
    gate, life, missed = tmp_path / "gate", tmp_path / "life", tmp_path / "missed"
    os.mkfifo(gate)
    os.mkfifo(life)
    missed.touch()
    machine = brokered.machine("lacks-large,gated-build_derivation,fails-once", jobs=1)
    preamble = brokered.preamble([machine], max_jobs="1")
    first, second, third = (brokered.store.add_derivation(f"x-{number}")[0] for number in range(3))
    environ = {"LIFE": os.devnull, "GATE": os.devnull, "MISSED": str(missed)}
    brokered.hook(preamble + brokered.request(first) + brokered.job(), **environ)
    data = preamble + brokered.request(second) + brokered.job()
    with brokered.start(data, **environ | {"LIFE": str(life), "GATE": str(gate)}) as hook, life.open() as daemon:
        assert daemon.readline() == "waiting\n"
        with brokered.start(preamble + brokered.request(third), **environ) as other:
            _, said = other.communicate()
        gate.write_text("")
        hook.communicate()
    assert [line for line in said.decode().splitlines() if line.startswith("# ")] == ["# decline"]
