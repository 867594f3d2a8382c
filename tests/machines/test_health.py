"""What is remembered of machines: one dead machine costs one time-out, and a repaired one is soon used again."""

from collections.abc import Callable

import pytest

from hook.machines.health import (
    FIRST_PAUSE_S,
    FRESH_S,
    LONGEST_PAUSE_S,
    LONGEST_TRY_S,
    MOST_RECORDS,
    PROVEN_S,
    REFUSED_S,
    UNTRUSTED,
    Health,
)
from hook.machines.identity import HealthOf, ssh_looks_at


class Clock:
    """A time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock, jitter=lambda: 0.5)


def test_any_success_ends_the_pause() -> None:
    """Of the machine whose address it was, for every caller."""
    health = Health(lambda: 0.0, jitter=lambda: 0.5)
    with_key, without, other, named_so = (
        HealthOf(uri, key, None, ssh_looks_at({}), state_dir)
        for uri, key, state_dir in (
            ("ssh-ng://b1", "key", "/nix/var/nix"),
            ("ssh-ng://b1", None, "/nix/var/nix"),
            ("ssh-ng://b10", None, "/nix/var/nix"),
            ("ssh-ng://b2", "ssh-ng://b1", "ssh-ng://b1"),
        )
    )
    for machine in (with_key, without, other, named_so):
        health.failed(machine, "gone")
    health.forgive("ssh-ng://b1")
    assert health.obstacle(with_key) is None
    assert health.obstacle(without) is None
    assert health.failures(without) == 0
    assert not health.is_fresh(without)
    assert health.obstacle(other) is not None
    assert health.obstacle(named_so) is not None


def test_nothing_is_held_against_an_unknown_machine_and_nothing_taken_for_granted(health: Health) -> None:
    """With nothing learnt the decision is stock's: connect, then accept."""
    assert health.obstacle("m") is None
    assert not health.is_fresh("m")


def test_a_machine_that_worked_is_taken_to_work_for_a_while(health: Health, clock: Clock) -> None:
    """Only so long: a reply without asking is a promise."""
    health.worked("m")
    assert health.is_fresh("m")
    clock.now += FRESH_S
    assert not health.is_fresh("m")
    assert health.obstacle("m") is None


def test_when_a_machine_answered_is_known_unless_that_is_in_doubt(health: Health, clock: Clock) -> None:
    """Nobody can say more of a machine that nobody asks."""
    assert health.answered_s_ago("m") is None
    health.worked("m")
    clock.now += 100
    assert health.answered_s_ago("m") == 100
    health.doubt("m")
    assert health.answered_s_ago("m") is None
    health.worked("m")
    health.failed("m", "refused")
    assert health.answered_s_ago("m") is None


def test_whatever_comes_from_a_machine_proves_it_for_a_moment(health: Health, clock: Clock) -> None:
    """A line of a log is as good as an answer; what others would do as well needs proof."""
    assert not health.is_proven("m")
    health.worked("m")
    assert health.is_proven("m")
    clock.now += PROVEN_S
    assert not health.is_proven("m")
    hear = health.ear("m")
    hear()
    assert health.is_proven("m")
    assert not health.is_proven("other")


@pytest.mark.parametrize("happen", [lambda health: health.failed("m", "refused"), lambda health: health.doubt("m")])
def test_trouble_is_proof_of_nothing(health: Health, happen: Callable[[Health], None]) -> None:
    """What came a moment before came from a machine that has gone since."""
    hear = health.ear("m")
    health.worked("m")
    hear()
    happen(health)
    assert not health.is_proven("m")


def test_distrust_is_what_the_machine_says_or_what_it_did_lately(health: Health, clock: Clock) -> None:
    """A refusal may have been of one path only, and machines get mended."""
    assert health.distrust("m") is None
    health.refused("m", "lacks a signature")
    assert health.distrust("m") == "lacks a signature"
    health.trusts("m", trusted=None, begun_at=1)
    assert health.distrust("m") == "lacks a signature"
    clock.now += REFUSED_S
    assert health.distrust("m") is None
    health.trusts("m", trusted=False, begun_at=1)
    health.refused("m", "lacks a signature")
    clock.now += REFUSED_S
    assert health.distrust("m") == UNTRUSTED
    health.trusts("m", trusted=True, begun_at=2)
    assert health.distrust("m") is None


def test_the_connection_begun_last_says_whom_a_machine_trusts(health: Health) -> None:
    """Its owner may have changed that since the others were begun; what they have said counts no more."""
    health.trusts("m", trusted=False, begun_at=2)
    for begun_at in (1, 2):
        health.trusts("m", trusted=True, begun_at=begun_at)
        assert health.distrust("m") == UNTRUSTED
    health.trusts("m", trusted=True, begun_at=3)
    health.trusts("m", trusted=False, begun_at=2)
    assert health.distrust("m") is None
    health.refused("m", "lacks a signature")
    health.trusts("m", trusted=True, begun_at=3)
    assert health.distrust("m") == "lacks a signature"


def test_pauses_grow_to_a_limit_and_end_when_the_machine_works(health: Health, clock: Clock) -> None:
    """A machine that is down for the night is asked twelve times an hour, not at every build."""
    pauses = []
    for _ in range(10):
        health.failed("m", "refused")
        start = clock.now
        while health.obstacle("m"):
            clock.now += 0.5
        pauses.append(clock.now - start)
    assert pauses[0] == FIRST_PAUSE_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S
    health.worked("m")
    health.failed("m", "refused")
    assert health.obstacle("m") == f"refused (next try in {FIRST_PAUSE_S:.0f} s)"


def test_what_somebody_has_to_repair_is_tried_less_often(health: Health, clock: Clock) -> None:
    """A host key does not become known in five seconds; the pause grows from there, and no further than others."""
    health.failed("m", "host key", 30.0)
    assert health.obstacle("m") == "host key (next try in 30 s)"
    for _ in range(10):
        clock.now += LONGEST_PAUSE_S
        health.failed("m", "host key", 30.0)
    assert health.obstacle("m") == f"host key (next try in {LONGEST_PAUSE_S:.0f} s)"


def test_after_the_pause_one_session_tries_and_the_others_go_on_without(health: Health, clock: Clock) -> None:
    """A hundred waiting builds must not all wait for the same time-out."""
    health.failed("m", "timed out")
    clock.now += FIRST_PAUSE_S
    assert health.obstacle("m") is None
    health.trying("m")
    assert health.obstacle("m") == "timed out (being tried again)"
    health.worked("m")
    assert health.obstacle("m") is None


def test_a_try_that_nobody_finished_does_not_block_the_machine_for_ever(health: Health, clock: Clock) -> None:
    """The user pressed Ctrl-C in the middle of it."""
    health.failed("m", "timed out")
    clock.now += FIRST_PAUSE_S
    health.trying("m")
    health.abandoned("m")
    assert health.obstacle("m") is None


def test_a_try_that_does_not_end_is_not_waited_for_for_ever(health: Health, clock: Clock) -> None:
    """The user has stopped the command that tries, and comes back tomorrow."""
    health.failed("m", "timed out")
    clock.now += FIRST_PAUSE_S
    for _ in range(2):
        assert health.trying("m")
        clock.now += LONGEST_TRY_S - 1
        assert health.obstacle("m") == "timed out (being tried again)"
        clock.now += 1
        assert health.obstacle("m") is None


def test_many_that_fail_together_are_one_failure(health: Health, clock: Clock) -> None:
    """Eight builds were connecting when the machine went down; it may be back in five seconds."""
    for _ in range(8):
        health.failed("m", "timed out")
    assert health.failures("m") == 1
    clock.now += FIRST_PAUSE_S
    assert health.obstacle("m") is None


def test_failures_are_counted_for_those_who_wait(health: Health, clock: Clock) -> None:
    """Since it last worked: one that turns away a connection now and then is still of use."""
    assert health.failures("m") == 0
    for _ in range(2):
        for count in (1, 2, 3):
            health.failed("m", "refused")
            assert health.failures("m") == count
            clock.now += 2 * LONGEST_PAUSE_S
        health.worked("m")
        assert health.failures("m") == 0


def test_what_builds_find_out_is_not_over_with_a_connection(health: Health, clock: Clock) -> None:
    """A full disk is found by builds only, one after another; those who wait need not each find it again."""
    for count in (1, 2):
        health.failed("m", "its disk is full", by_build=True)
        clock.now += LONGEST_PAUSE_S
        health.worked("m")
        assert health.obstacle("m") is None
        assert health.failures("m") == count
    health.built("m")
    assert health.failures("m") == 0
    health.failed("m", "refused")
    health.built("m")
    assert health.failures("m") == 1
    assert health.obstacle("m") is not None


def test_only_a_machine_that_failed_is_reserved_for_one(health: Health, clock: Clock) -> None:
    """Any number of builds may use one that works."""
    assert not health.trying("m")
    health.worked("m")
    assert not health.trying("m")
    health.failed("m", "refused")
    clock.now += FIRST_PAUSE_S
    assert health.trying("m")


def test_a_lost_connection_is_a_doubt_and_not_a_failure(health: Health) -> None:
    """The next build asks before it promises, but it does ask."""
    health.worked("m")
    health.doubt("m")
    assert not health.is_fresh("m")
    assert health.obstacle("m") is None


def test_machines_do_not_answer_for_each_other(health: Health) -> None:
    """One dead machine is no reason to leave the others alone."""
    health.failed("a", "refused")
    health.worked("b")
    assert health.obstacle("b") is None
    assert not health.is_fresh("a")


def test_of_very_many_machines_the_last_are_remembered(clock: Clock) -> None:
    """A machine is another one for each caller with other keys, and a broker may live for months."""
    health = Health(clock, jitter=lambda: 0.5)
    for number in range(MOST_RECORDS + 10):
        health.failed(number, "down") if number % 2 else health.worked(number)
    assert health.obstacle(1) is None
    assert health.obstacle(11)
    assert not health.is_fresh(8)
    assert health.is_fresh(10)
