"""What is promised to Nix, by what is known of machines and of the builds in their slots."""

from dataclasses import replace

import pytest

from hook.config import Config
from hook.errors import Cancelled, MachineError, StockOnly, StoreError
from hook.machines.health import FIRST_PAUSE_S, FRESH_S, PROVEN_S, Health
from hook.machines.places import Place
from hook.machines.schedule import Answer
from hook.protocol.worker import WorkerClient
from hook.remote import proof
from hook.session.connections import Connections
from tests.session.desk import (
    REQUEST,
    Conversation,
    Desk,
    Waiting,
    ahead,
    bad,
    connect,
    fail_to_connect,
    good,
    is_running,
    place_of,
    run,
)


def test_without_experience_a_machine_is_asked_first(desk: Desk) -> None:
    """Before the accept we can still decline."""
    conversation = desk.conversation(good())
    place = place_of(conversation)
    assert not conversation.may_accept_first(REQUEST, place)
    connect(conversation, place)
    assert conversation.may_accept_first(REQUEST, place)
    desk.clock.now += FRESH_S
    assert not conversation.may_accept_first(REQUEST, place)


def test_a_machine_that_works_stands_in_for_one_that_is_not_known(desk: Desk) -> None:
    """Nix would do nothing else while we wait for one that may be dead."""
    place = place_of(desk.conversation(good("works")))
    connect(desk.conversation(good("works", jobs=2)), place)
    lines = [good("works"), bad("unknown", speed=9)]
    conversation = desk.conversation(*lines)
    unknown = place_of(conversation)
    assert "unknown" in unknown.name
    assert conversation.may_accept_first(REQUEST, unknown)
    assert not conversation.may_accept_first(replace(REQUEST, system="riscv64-linux"), unknown)
    mounted = place_of(desk.conversation(*lines, "mounted-ssh-ng://b1 - - 1 99"))
    assert not conversation.may_accept_first(REQUEST, mounted)


def test_what_this_host_could_build_is_promised_on_fresh_proof_only(desk: Desk) -> None:
    """A second is what may be lost; whatever comes from the machine renews it."""
    desk.max_jobs = 1
    conversation = desk.conversation(good())
    place = place_of(conversation)
    remote = connect(conversation, place)
    assert conversation.may_accept_first(REQUEST, place)
    desk.clock.now += PROVEN_S
    assert not conversation.may_accept_first(REQUEST, place)
    remote.client.query_valid_paths([], substitute=False)
    assert conversation.may_accept_first(REQUEST, place)
    other_system = replace(REQUEST, system="riscv64-linux")
    assert not conversation.promises.needs_proof(other_system)


def test_a_warm_connection_is_asked_before_it_is_proof(desk: Desk) -> None:
    """Once for all builds of a moment."""
    line = good(jobs=2)
    first = desk.conversation(line)
    remote = connect(first)
    first.give_back(remote)
    asked = remote.stream.bytes_out
    second = desk.conversation(line)
    place = place_of(second)
    assert second.connect(place, lambda: None, needs_proof=True)[0] is remote
    assert remote.stream.bytes_out == asked
    second.give_back(remote)
    desk.clock.now += PROVEN_S
    assert second.connect(place, lambda: None, needs_proof=True)[0] is remote
    assert remote.stream.bytes_out > asked
    assert second.may_accept_first(REQUEST, place)


def test_a_machine_that_answers_over_a_warm_connection_works(desk: Desk) -> None:
    """One login that failed must not leave it to one build at a time for as long as there are warm ones."""
    line = good(jobs=2)
    first = desk.conversation(line)
    place = place_of(first)
    remote, _ = first.connect(place, lambda: None)
    first.give_back(remote)
    place.release()
    desk.health.failed(first.roster.health_of(place.machine), "one login was refused")
    desk.clock.now += FIRST_PAUSE_S + 1
    second = desk.conversation(line)
    assert second.connect(place_of(second), lambda: None)[0] is remote
    assert desk.health.obstacle(second.roster.health_of(place.machine)) is None


@pytest.mark.parametrize(("max_jobs", "expected"), [(1, False), (0, True)], ids=["local jobs", "none"])
def test_proof_of_another_machine_is_none_where_nix_could_build_it(desk: Desk, max_jobs: int, expected: bool) -> None:
    """That one may be busy for long: the build would wait for it, and never be built here."""
    desk.max_jobs = max_jobs
    works = place_of(desk.conversation(good("works")))
    connect(desk.conversation(good("works")), works)
    conversation = desk.conversation(good("works"), bad("unknown", speed=9))
    unknown = place_of(conversation)
    assert "unknown" in unknown.name
    assert conversation.may_accept_first(REQUEST, unknown) is expected
    assert conversation.may_accept_first(REQUEST, works)


def kept_warm(desk: Desk, behaviour: str) -> tuple[Conversation, Place]:
    """A conversation with a machine to which there is a connection that has been idle for a while."""
    desk.max_jobs = 1
    line = good(jobs=2).replace("%20ok%20", f"%20{behaviour}%20")
    first = desk.conversation(line)
    first.give_back(connect(first))
    desk.clock.now += PROVEN_S
    conversation = desk.conversation(line)
    return conversation, place_of(conversation)


def test_a_machine_that_does_not_answer_is_asked_once_and_not_connected_to_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new connection would only wait for the same silence, and Nix with it."""
    monkeypatch.setattr(proof, "ANSWER_S", 0.05)
    conversation, place = kept_warm(desk, "hang-query_valid_paths")
    monkeypatch.setattr(Connections, "begin", None)
    with pytest.raises(MachineError, match="no answer within"):
        conversation.connect(place, lambda: None, needs_proof=True)
    place.release()
    decision, none = conversation.decide(REQUEST)
    assert none is None
    assert decision.answer is Answer.DECLINE


def test_a_connection_that_ended_is_replaced(desk: Desk) -> None:
    """The machine may have been restarted; stock would connect, too."""
    conversation, place = kept_warm(desk, "die-query_valid_paths")
    remote, _ = conversation.connect(place, lambda: None, needs_proof=True)
    assert is_running(remote)
    assert conversation.may_accept_first(REQUEST, place)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_connection_that_is_kept_says_whom_its_machine_trusts(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    """It may have taken the place of one that said otherwise; as long as builds come, no other is made."""
    _, place = kept_warm(desk, "ok")
    place.release()
    desk.health = Health(desk.clock)
    conversation = desk.conversation(place.machine.text)
    place = place_of(conversation)
    desk.health.trusts(conversation.roster.health_of(place.machine), trusted=not trusted, begun_at=0.0)
    monkeypatch.setattr(WorkerClient, "trusted", trusted)
    conversation.connect(place, lambda: None)
    assert (conversation.roster.distrust(place.machine) is None) is trusted


def test_a_lone_hook_asks_always(desk: Desk) -> None:
    """Its experience is as old as itself."""
    desk.lasting = False
    conversation = desk.conversation(good())
    place = place_of(conversation)
    connect(conversation, place)
    assert not conversation.may_accept_first(REQUEST, place)


def test_a_machine_that_fails_is_left_out_here_and_left_alone_elsewhere(desk: Desk) -> None:
    """One time-out for all, and this conversation does not come back to it."""
    conversation = desk.conversation(bad(speed=2), good())
    fail_to_connect(conversation)
    for other in (conversation, desk.conversation(bad(speed=2), good())):
        place = place_of(other)
        assert "ok" in place.name
        place.release()
    desk.clock.now += 2 * FIRST_PAUSE_S
    place = place_of(conversation)
    assert "ok" in place.name


def test_a_machine_that_one_caller_cannot_reach_is_not_held_against_it(desk: Desk) -> None:
    """Without an agent ssh has no key; another user of the same account has one."""
    fail_to_connect(desk.conversation(bad()))
    desk.caller = replace(desk.caller, environ={**desk.caller.environ, "SSH_AUTH_SOCK": "/run/agent"})
    place_of(desk.conversation(bad()))


def test_one_conversation_at_a_time_tries_a_machine_that_failed(desk: Desk) -> None:
    """From the choice on, not only from the connection on: two that chose at once would both wait."""
    fail_to_connect(desk.conversation(bad()))
    desk.clock.now += FIRST_PAUSE_S
    place = place_of(desk.conversation(bad()))
    decision, none = desk.conversation(bad()).decide(REQUEST)
    assert none is None
    assert "being tried again" in decision.verdicts[0].reason
    place.release()
    place_of(desk.conversation(bad()))


@pytest.mark.parametrize("error", [Cancelled("gone"), StockOnly("odd"), StoreError("bad"), KeyError("bug")])
def test_a_try_that_is_given_up_leaves_the_machine_to_others(desk: Desk, error: Exception) -> None:
    """It says nothing about the machine, which nobody could use again otherwise."""
    line = good()
    first = desk.conversation(line)
    place = place_of(first)
    desk.health.failed(first.roster.health_of(place.machine), "timed out")
    place.release()
    desk.clock.now += FIRST_PAUSE_S
    place = place_of(first)

    def give_up() -> None:
        raise error

    with pytest.raises(type(error)):
        first.connect(place, give_up)
    first.close()
    remote = connect(desk.conversation(line))
    assert is_running(remote)


@pytest.mark.parametrize(("max_jobs", "expected"), [(0, Answer.POSTPONE), (1, Answer.DECLINE)])
def test_with_all_machines_down_nix_waits_only_if_it_cannot_build(desk: Desk, max_jobs: int, expected: Answer) -> None:
    """Built here at once if this host may; else asked again until a machine is back."""
    fail_to_connect(desk.conversation(bad()))
    desk.max_jobs = max_jobs
    decision, place = desk.conversation(bad()).decide(REQUEST)
    assert place is None
    assert decision.answer is expected


def test_a_machine_that_failed_in_this_conversation_is_no_reason_to_wait(desk: Desk) -> None:
    """Nix is told, as by the stock hook."""
    conversation = desk.conversation(bad())
    fail_to_connect(conversation)
    decision, _ = conversation.decide(REQUEST)
    assert decision.answer is Answer.DECLINE


def test_a_machine_without_slots_is_not_waited_for(desk: Desk) -> None:
    """It will never have one: Nix is to ask again, as by the stock hook, not to be promised a build."""
    conversation = desk.conversation(good(jobs=0))
    decision, _ = conversation.decide(REQUEST)
    assert decision.answer is Answer.POSTPONE
    assert conversation.waits_for(REQUEST, decision) is None


def test_what_only_the_stock_hook_speaks_to_is_not_waited_for(desk: Desk) -> None:
    """When its slot is free the build would have nobody to do it."""
    line = "mounted-ssh-ng://b1"
    place_of(desk.conversation(line))
    conversation = desk.conversation(line)
    decision, place = conversation.decide(REQUEST)
    assert (decision.answer, place) == (Answer.POSTPONE, None)
    assert conversation.waits_for(REQUEST, decision) is None


@pytest.mark.parametrize("lasting", [True, False])
def test_only_a_broker_waits_in_place_of_nix(desk: Desk, lasting: bool) -> None:
    """A lone hook that waited would keep Nix from asking another one."""
    desk.lasting = lasting
    place_of(desk.conversation(good("slow"), good("fast", speed=2)))
    place_of(desk.conversation(good("slow"), good("fast", speed=2)))
    conversation = desk.conversation(good("slow"), good("fast", speed=2))
    decision, place = conversation.decide(REQUEST)
    assert place is None
    likely = conversation.waits_for(REQUEST, decision)
    assert likely is None if not lasting else likely is not None and "fast" in likely


def test_what_this_host_could_build_waits_only_for_a_slot_that_it_will_have_soon(desk: Desk) -> None:
    """What is promised can never be built here any more, however many slots are free here meanwhile."""
    desk.max_jobs = 6
    running = run(desk.conversation(good()))
    conversation = desk.conversation(good())
    decision, _ = conversation.decide(REQUEST)
    conversation.promises.ran(REQUEST, running, 0.4)
    assert conversation.waits_for(REQUEST, decision) is None
    desk.health.worked(conversation.roster.health_of(running.machine))
    assert conversation.waits_for(REQUEST, decision) == running.name
    conversation.promise(REQUEST)
    another = desk.conversation(good())
    another.promise(REQUEST)
    assert desk.conversation(good()).waits_for(REQUEST, decision) is None
    another.close()
    assert desk.conversation(good()).waits_for(REQUEST, decision) == running.name
    desk.clock.now += PROVEN_S
    assert desk.conversation(good()).waits_for(REQUEST, decision) is None


def test_slots_of_a_machine_that_may_be_dead_are_not_counted_on(desk: Desk) -> None:
    """However soon it would have one, and whatever other machine is known to live."""
    desk.max_jobs = 6
    lines = good("alive"), good("perhaps")
    alive, perhaps = run(desk.conversation(lines[0])), run(desk.conversation(lines[1]))
    conversation = desk.conversation(*lines)
    decision, _ = conversation.decide(REQUEST)
    conversation.promises.ran(REQUEST, perhaps, 0.1)
    desk.clock.now += PROVEN_S
    desk.health.worked(conversation.roster.health_of(alive.machine))
    assert conversation.waits_for(REQUEST, decision) is None
    desk.health.worked(conversation.roster.health_of(perhaps.machine))
    assert conversation.waits_for(REQUEST, decision) is not None


LONG = replace(REQUEST, drv_path="/nix/store/00000000000000000000000000000002-long.drv")


def test_a_slot_in_which_something_else_runs_is_not_expected_soon(desk: Desk) -> None:
    """However short its own kind is: it may be the only slot, and this host could have built it long before."""
    desk.max_jobs = 6
    running = run(desk.conversation(good()), LONG)
    conversation = desk.conversation(good())
    decision, _ = conversation.decide(REQUEST)
    conversation.promises.ran(REQUEST, running, 0.1)
    desk.health.worked(conversation.roster.health_of(running.machine))
    assert conversation.waits_for(REQUEST, decision) is None
    running.release()
    run(desk.conversation(good()))
    assert conversation.waits_for(REQUEST, decision) == running.name


def test_a_slot_that_was_lent_is_as_busy_as_who_has_it(desk: Desk) -> None:
    desk.max_jobs, desk.config = 6, Config(look_ahead=2)
    uploading = place_of(desk.conversation(good()))
    uploading.lend()
    conversation = desk.conversation(good())
    decision, _ = conversation.decide(REQUEST)
    conversation.promises.ran(REQUEST, uploading, 0.1)
    desk.health.worked(conversation.roster.health_of(uploading.machine))
    assert conversation.waits_for(REQUEST, decision) == uploading.name
    place = ahead(desk.conversation(good()))
    assert desk._open[-1].wait_for_slot(LONG, place) is place
    assert conversation.waits_for(REQUEST, decision) is None


def test_slots_of_a_machine_that_would_refuse_the_build_are_not_counted_on(desk: Desk) -> None:
    """However soon they are free; and other builds it takes."""
    desk.max_jobs = 6
    lines = good("picky", speed=2), good("other")
    picky, _ = run(desk.conversation(lines[0])), run(desk.conversation(lines[1]))
    conversation = desk.conversation(*lines)
    decision, _ = conversation.decide(REQUEST)
    conversation.promises.ran(REQUEST, picky, 0.1)
    desk.health.worked(conversation.roster.health_of(picky.machine))
    assert conversation.waits_for(REQUEST, decision) == picky.name
    conversation.spare(REQUEST, conversation.roster.in_use()[0].machine, "nobody has signed its input")
    assert conversation.waits_for(REQUEST, decision) is None
    other = replace(REQUEST, drv_path=REQUEST.drv_path.replace("-a", "-a-2"))
    assert conversation.waits_for(other, decision) == picky.name


def test_a_build_that_runs_holds_up_no_promise(desk: Desk) -> None:
    desk.max_jobs = 1
    running = run(desk.conversation(good()))
    waiting = Waiting(desk.conversation(good()))
    waiting.conversation.promise(REQUEST)
    waiting.conversation.promises.ran(REQUEST, running, 0.9)
    desk.health.worked(waiting.conversation.roster.health_of(running.machine))
    assert not desk.backlog.starts_soon([running.at], REQUEST.drv_path)
    running.release()
    place = waiting.outcome()
    assert isinstance(place, Place)
    assert waiting.conversation.wait_for_slot(REQUEST, place) is place
    assert desk.backlog.starts_soon([running.at], REQUEST.drv_path)


@pytest.mark.parametrize(
    ("max_jobs", "release", "answer"),
    [
        (1, (2, 8), Answer.DECLINE),
        (1, (2, 34), Answer.DECLINE),
        (1, (2, 35), Answer.POSTPONE),
        (0, (2, 34), Answer.POSTPONE),
    ],
)
def test_nix_is_told_what_makes_it_ask_again_soonest(
    desk: Desk, max_jobs: int, release: tuple[int, int], answer: Answer
) -> None:
    """When a build ends anywhere, or after five seconds: which of them depends on the release."""
    desk.max_jobs, desk.release = max_jobs, release
    run(desk.conversation(good()))
    conversation = desk.conversation(good())
    decision, _ = conversation.decide(REQUEST)
    assert decision.answer is Answer.POSTPONE
    assert conversation.refusal(REQUEST, decision) is answer
