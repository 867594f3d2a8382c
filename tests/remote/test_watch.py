"""Limits that a machine does not keep: the build ends all the same, in stock's words, and nobody else is asked."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hook.errors import BuildFailed
from hook.remote.watch import GRACE_BYTES, GRACE_S, Watch
from hook.values.limits import Limits
from tests.fakes.bench import Bench

NAME = "building of 'x'"


class World:
    """A clock, a build log, and a watch over both."""

    def __init__(self, limits: Limits) -> None:
        self.now = 1000.0
        self.logged = 50
        self.watch = Watch(NAME, limits, lambda: self.logged, lambda: self.now)


def test_without_limits_nothing_is_watched() -> None:
    world = World(Limits())
    world.now += 1e9
    world.logged += 1 << 40
    assert world.watch() is None


def test_a_build_is_ended_a_little_after_its_time() -> None:
    """However much it prints; the machine has the time to do it itself."""
    world = World(Limits(timeout_s=10))
    assert world.watch() == 10 + GRACE_S
    world.now += 10 + GRACE_S - 1
    world.logged += 1
    assert world.watch() == 1
    world.now += 1
    with pytest.raises(BuildFailed, match=rf"^{NAME} timed out after 10 seconds$"):
        world.watch()


def test_a_silent_build_is_ended_and_whatever_it_prints_gives_it_time() -> None:
    world = World(Limits(max_silent_time_s=10, timeout_s=1000))
    for _ in range(3):
        world.now += 9
        world.logged += 1
        assert world.watch() == 10 + GRACE_S
    world.now += 10 + GRACE_S
    with pytest.raises(BuildFailed, match=rf"^{NAME} timed out after 10 seconds of silence$"):
        world.watch()


def test_a_build_that_prints_too_much_is_ended() -> None:
    """What was printed before, on another machine, does not count."""
    world = World(Limits(max_log_bytes=100))
    world.logged += 100 + GRACE_BYTES
    assert world.watch() is None
    world.logged += 1
    with pytest.raises(BuildFailed, match=rf"^{NAME} killed after writing more than 100 bytes of log output$"):
        world.watch()


# Whole sessions; the scripted machines know no limits


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path, broker=True) as bench:
        yield bench


def is_reported_once(said: str, bench: Bench, text: str) -> bool:
    return said.count("failed: ") == said.count(f"failed: building of '{bench.store.drv_path}' {text}") == 1


def test_a_machine_that_hangs_costs_the_time_that_was_set(bench: Bench) -> None:
    """Both limits at once; another machine would have had the same time to lose."""
    text = "timed out after 1 seconds"
    with contextlib.ExitStack() as hooks:
        started = []
        for limit in ("timeout", "max_silent_time"):
            machines = [bench.machine("hang-build_derivation", limit, 9), bench.machine("ok", limit)]
            data = bench.preamble(machines, **{limit: "1"}) + bench.request() + bench.job()
            started.append(hooks.enter_context(bench.start(data)))
        for hook, expected in zip(started, (text, f"{text} of silence"), strict=True):
            _, said = hook.communicate(timeout=60)
            assert hook.returncode == 1
            assert is_reported_once(said.decode(), bench, expected)
    assert bench.held_slots() == []
    assert not bench.outputs_valid()


def test_a_log_without_end_is_cut_off(bench: Bench) -> None:
    """And the connection is no good for another build."""
    outcome = bench.build(bench.machine("chatty"), max_build_log_size="1000")
    assert outcome.status == 1
    assert is_reported_once(outcome.messages, bench, "killed after writing more than 1000 bytes of log output")
    assert bench.build(bench.machine("ok")).status == 0
    assert bench.outputs_valid()
