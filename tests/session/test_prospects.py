"""Which machines one build may go to: what suits it, what is given up, and what only cannot be used at present."""

from dataclasses import replace

import pytest

from hook.machines.disabled import Disabled
from hook.session import prospects as prospects_module
from hook.session.prospects import Prospects
from tests.session.desk import REQUEST, Desk, bad, fail_to_connect, good

OTHER_SYSTEM = "ssh-ng://other riscv64-linux - 1"
NO_SLOTS = "ssh-ng://none - - 0"


def test_what_suits_a_build_is_asked_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never changes, and a farm has a hundred lines that are looked at whenever a slot is freed."""
    conversation = desk.conversation(good("a"), OTHER_SYSTEM, good("b"))
    asked = []
    suitable = prospects_module.suitable
    monkeypatch.setattr(prospects_module, "suitable", lambda *pair: asked.append(pair[1].text) or suitable(*pair))
    prospects = conversation.prospects(REQUEST)
    for _ in range(3):
        assert len(prospects.able()) == len(prospects.usable()) == 2
        assert prospects.any_left()
    assert len(asked) == 3


def test_a_machine_may_be_able_and_not_usable_now(desk: Desk) -> None:
    """Disabled, or left alone for a while: a build that waits may have it later."""
    conversation = desk.conversation(good("a"), good("b"), good("c"), OTHER_SYSTEM, NO_SLOTS)
    a, b, c, other, none = (each.machine for each in conversation.roster.in_use())
    disabled = Disabled(str(desk.root / "nix-ferry"))
    disabled.add(a)
    desk.health.failed(conversation.roster.health_of(b), "gone")
    prospects = conversation.prospects(REQUEST)
    assert prospects.able() == [a, b, c, none]
    assert prospects.usable() == [c]
    assert "disabled" in str(prospects.obstacle(a))
    assert "gone" in str(prospects.obstacle(b))
    assert prospects.obstacle(c) is None
    assert not prospects.suits(other)
    assert prospects.why_all_are_down() is None


def test_what_is_given_up_is_told_in_the_order_of_the_lines(desk: Desk) -> None:
    """Also what only this build would be refused."""
    conversation = desk.conversation(good("a"), bad("b"), good("c"), OTHER_SYSTEM)
    a, b, _, _ = (each.machine for each in conversation.roster.in_use())
    conversation.roster.leave_out(b, "went away")
    conversation.spare(REQUEST, a, "nobody has signed its input")
    prospects = conversation.prospects(REQUEST)
    first, second = prospects.why_nowhere().split("; ")
    assert first.endswith("ok%20a': nobody has signed its input")
    assert second.endswith("b': went away")
    another = conversation.prospects(replace(REQUEST, drv_path=REQUEST.drv_path.replace("1-a", "2-b")))
    assert a in another.able()
    assert a not in prospects.able()


@pytest.mark.parametrize(("line", "left"), [(good(), True), (NO_SLOTS, False), (OTHER_SYSTEM, False)])
def test_a_machine_is_left_only_if_it_may_have_a_slot(desk: Desk, line: str, left: bool) -> None:
    """Nobody waits for one that never will."""
    assert desk.conversation(line).prospects(REQUEST).any_left() is left


def test_all_are_down_only_if_there_are_any(desk: Desk) -> None:
    """A user who has no machine for a system is told something else."""
    conversation = desk.conversation(bad(), OTHER_SYSTEM)
    prospects = conversation.prospects(REQUEST)
    assert prospects.why_all_are_down() is None
    fail_to_connect(conversation)
    assert "'ssh-ng://localhost" in str(prospects.why_all_are_down())
    for_nobody = Prospects(replace(REQUEST, system="mips-linux"), conversation.roster)
    assert for_nobody.why_all_are_down() is None


def test_builds_stand_in_one_queue_if_the_same_slots_suit_them(desk: Desk) -> None:
    """Only the first of a queue looks, so nobody in it may have other machines."""
    conversation = desk.conversation(good("a"), good("b"))
    a, _ = (each.machine for each in conversation.roster.in_use())

    def queue(**change: object) -> object:
        request = replace(REQUEST, **change)
        return conversation.prospects(request).queue_of("private", conversation.dispatcher._services.host)

    other_drv = REQUEST.drv_path.replace("1-a", "2-b")
    assert queue() == queue(drv_path=other_drv) == queue(am_willing=True)
    assert queue() != queue(features=frozenset({"kvm"}))
    assert queue() != queue(system="riscv64-linux")
    conversation.spare(REQUEST, a, "nobody has signed its input")
    assert queue() != queue(drv_path=other_drv)
    conversation.roster.leave_out(a, "went away")
    assert queue() == queue(drv_path=other_drv)
