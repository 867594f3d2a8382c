"""By what a machine is known: whose slots, whose health, and what one conversation has found out."""

from dataclasses import replace

import pytest

from hook.errors import ConnectionLost, MachineError, NotTrusted, Trouble
from hook.session.roster import LOSSES_ALLOWED
from tests.session.desk import REQUEST, Desk, good

KEYS = ("ssh-ng://b1 - /key - 1", "ssh-ng://b1 - - 1 1 - - c3NoLXJzYQ==", "ssh-ng://b1 - - 2")


def test_lines_with_one_address_share_slots_and_not_their_health(desk: Desk) -> None:
    """Nix has one lock file for them; but only one of the keys may be wrong."""
    roster = desk.conversation(*KEYS).roster
    machines = [each.machine for each in roster.in_use()]
    assert len({roster.slots_of(machine) for machine in machines}) == 1
    assert len({roster.health_of(machine) for machine in machines}) == len(KEYS)


def test_callers_have_slots_in_common_and_health_only_if_ssh_sees_the_same(desk: Desk) -> None:
    """A machine that refuses one agent's key works for others."""
    (one,) = desk.conversation("ssh-ng://b1").roster.in_use()
    (same,) = desk.conversation("ssh-ng://b1").roster.in_use()
    desk.caller = replace(desk.caller, environ={**desk.caller.environ, "SSH_AUTH_SOCK": "/other"})
    (other,) = desk.conversation("ssh-ng://b1").roster.in_use()
    assert one.health == same.health != other.health
    assert one.at == same.at == other.at


@pytest.mark.parametrize(
    ("error", "at_once"),
    [
        (ConnectionLost("reset"), False),
        (MachineError("odd"), False),
        (NotTrusted("no"), True),
        (MachineError("full", Trouble.DISK_FULL), True),
    ],
    ids=["lost", "odd", "not trusted", "full"],
)
def test_a_machine_is_out_after_two_losses_or_one_that_would_be_repeated(
    desk: Desk, error: MachineError, at_once: bool
) -> None:
    """What has gone away may be back; what was refused would be refused again."""
    roster = desk.conversation(good()).roster
    (each,) = roster.in_use()
    for count in range(1, LOSSES_ALLOWED + 1):
        roster.lost(each.machine, error)
        assert roster.losses == {each.machine}
        assert (roster.out(each.machine) is not None) is (at_once or count == LOSSES_ALLOWED)
    assert roster.out(each.machine) == error.one_line


def test_only_who_was_to_find_out_gives_up_a_try(desk: Desk) -> None:
    """Another conversation that leaves a place must not take the try away from the one that has it."""
    first, second = desk.conversation(good()), desk.conversation(good())
    (each,) = first.roster.in_use()
    desk.health.failed(each.health, "gone")
    desk.clock.now += 3600
    first.roster.try_it(each.machine)
    second.roster.give_up_trying(each.machine)
    assert "being tried again" in str(second.prospects(REQUEST).obstacle(each.machine))
    first.roster.give_up_trying(each.machine)
    assert second.prospects(REQUEST).obstacle(each.machine) is None
