"""A machine that stays connected and does nothing more: noticed at every step, and only a build may be silent for long.

Whole conversations in this process, against scripted daemons; the limits are shortened.  Dead links, which ssh notices,
are in tests/lab/test_dead_links.py.
"""

import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from hook.broker.conversation import serve
from hook.front.caller import Caller
from hook.front.request import Job
from hook.machines.health import FIRST_PAUSE_S, Health
from hook.machines.identity import HealthOf
from hook.remote import child
from hook.remote import connection as remote
from hook.remote.connection import Remote
from hook.session import answering
from hook.session.build import Builder, Built
from hook.session.hub import new_hub
from hook.transfer import inputs
from tests.fakes.bench import Bench, Outcome
from tests.fakes.shim import writes_to

SHORT_S = 0.3
HOUR_S = 3600.0

LARGE = b"x" * (8 << 20)
"""More than the pipes on the way take."""

STEPS = {
    "silent": (child, "HANDSHAKE_S"),
    "murmurs": (child, "HANDSHAKE_S"),
    "hang-add_temp_root": (child, "HANDSHAKE_S"),
    "rant-add_temp_root": (child, "HANDSHAKE_S"),
    "dribble-add_temp_root": (child, "HANDSHAKE_S"),
    "hang-query_valid_paths": (remote, "QUERY_SILENCE_S"),
    "hang-add_multiple_to_store": (inputs, "UPLOAD_SILENCE_S"),
    "hang-query_path_info": (remote, "QUERY_SILENCE_S"),
    "hang-nar_from_path": (remote, "QUERY_SILENCE_S"),
    "stall-nar": (remote, "QUERY_SILENCE_S"),
}
"""Where a machine may stop, and the limit that is to notice it."""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path, broker=False) as bench:
        yield bench


class Watched(Health):
    """Tells when a machine is given up."""

    def __init__(self, given_up: Callable[[], None]) -> None:
        super().__init__(time.monotonic)
        self._given_up = given_up

    def failed(
        self, machine: Hashable, reason: str, first_pause_s: float = FIRST_PAUSE_S, *, by_build: bool = False
    ) -> None:
        super().failed(machine, reason, first_pause_s, by_build=by_build)
        self._given_up()

    def doubt(self, machine: Hashable) -> None:
        super().doubt(machine)
        self._given_up()


def converse(
    bench: Bench,
    *machines: str,
    given_up: Callable[[], None] = lambda: None,
    health: Health | None = None,
    **environ: str,
) -> Outcome:
    """One conversation about the store's derivation, with a large input."""
    large = bench.store.add(LARGE, "large")
    data = bench.preamble(machines) + bench.request() + bench.job(inputs=[large])
    with ExitStack() as files:
        to_us, from_us = (files.enter_context((bench.hook_state / name).open("w+b")) for name in ("in", "out"))
        to_us.write(data)
        to_us.seek(0)
        null = files.enter_context(open(os.devnull, "wb"))
        fds = to_us.fileno(), from_us.fileno(), null.fileno()
        tell = writes_to(from_us.fileno())
        caller = Caller(*fds, "4", bench.environ() | environ, os.getppid(), tell=tell)
        status = serve(caller, replace(new_hub(lasting=False), health=health or Watched(given_up)))
        from_us.seek(0)
        return Outcome(status, from_us.read().decode().splitlines())


@pytest.mark.parametrize("step", STEPS)
def test_a_machine_that_does_nothing_more_is_left_for_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It neither reads, nor sends, nor goes away."""
    monkeypatch.setattr(*STEPS[step], SHORT_S)
    # The other one has all the time it takes.
    outcome = converse(bench, bench.machine(step, speed=9), bench.machine("ok"), given_up=monkeypatch.undo)
    assert outcome.status == 0
    expected = "not ready after" if STEPS[step][0] is child else "no sign of life for"
    assert f"{expected} {SHORT_S:g} s" in outcome.messages
    assert bench.outputs_valid()
    assert bench.held_slots() == []


class Known(Watched):
    """Has heard of one machine a short while ago."""

    def __init__(self, name: str, given_up: Callable[[], None]) -> None:
        super().__init__(given_up)
        self._name = name

    def is_fresh(self, machine: HealthOf) -> bool:
        return self._name in machine.uri


@pytest.mark.parametrize(("known", "answer"), [("nobody", "postpone"), ("third", "accept")])
def test_many_machines_do_not_keep_nix_waiting_one_after_the_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, known: str, answer: str
) -> None:
    """Only one that is known to work is asked then; the others are next time, when those that kept silent pause."""
    silent = [bench.machine("silent", name, speed=9) for name in ("first", "second")]
    left = len(silent)

    def given_up() -> None:
        nonlocal left
        left -= 1
        if not left:
            # That was long enough.  Who is asked now has all the time it takes.
            monkeypatch.undo()
            monkeypatch.setattr(answering, "ANSWER_S", -1.0)

    monkeypatch.setattr(child, "HANDSHAKE_S", SHORT_S)
    monkeypatch.setattr(answering, "ANSWER_S", HOUR_S)
    outcome = converse(bench, *silent, bench.machine("ok", "third"), health=Known(known, given_up))
    assert outcome.answers == [f"# {answer}"]
    assert outcome.messages.count("cannot build on") == 2


def test_a_silent_build_is_not_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is silent for longer than it took to give up another machine, which was asked something."""
    build_there = Builder.build

    def build_in_a_hurry(builder: Builder, machine: Remote, job: Job) -> Built:
        """The limit on its silence is short until the build is over."""
        machine.stream.silence_s = SHORT_S
        built = build_there(builder, machine, job)
        machine.stream.silence_s = HOUR_S
        return built

    monkeypatch.setattr(Builder, "build", build_in_a_hurry)
    life, gate = tmp_path / "life", tmp_path / "gate"
    for pipe in (life, gate):
        os.mkfifo(pipe)
    with ExitStack() as held:
        one, other = (held.enter_context(Bench(tmp_path / name, broker=False)) for name in ("one", "other"))
        outcomes: list[Outcome] = []

        def build() -> None:
            machine = one.machine("gated-build_derivation")
            outcomes.append(converse(one, machine, LIFE=str(life), GATE=str(gate)))

        thread = threading.Thread(target=build)
        thread.start()
        with life.open() as daemon:
            assert daemon.readline() == "waiting\n"
            monkeypatch.setattr(Builder, "build", build_there)
            monkeypatch.setattr(remote, "QUERY_SILENCE_S", SHORT_S)
            machines = other.machine("hang-query_valid_paths", speed=9), other.machine("ok")
            lost = converse(other, *machines, given_up=monkeypatch.undo)
            assert "no sign of life" in lost.messages
            gate.write_text("")
            thread.join()
    assert outcomes[0].status == 0
    assert "no sign of life" not in outcomes[0].messages
