"""Builds that this host can do as well: whichever is free first, here or there, takes the next one."""

import pytest

from tests.lab.gates import Gates, build_gated
from tests.lab.host import Host
from tests.lab.install import HOOK
from tests.lab.midway import is_clean, running

pytestmark = pytest.mark.lab


def test_a_build_waits_for_no_machine_while_this_host_may_be_free_first(client: Host, twin: Host) -> None:
    """One slot here and one there; what is promised to the machine can never be built here any more."""
    client.trust(twin)
    client.configure(hook=HOOK, builders=f"ssh-ng://{twin.name} - - 1")
    here, there = Gates(client), Gates(twin)
    with running(client, build_gated("a", "b", "c", "d", seed="mix", options=["-j1"])) as build:
        here.wait_inside(1)
        there.wait_inside(1)
        there.let_through(*there.inside())
        # The machine takes the third one; the fourth could go to either.
        there.wait_for_start(2)
        here.let_through(*here.inside())
        here.wait_for_start(2)
        for gates in (here, there):
            gates.let_through(*gates.inside())
        assert len(build.communicate(timeout=60)[0].split()) == 4
    is_clean(client, twin)


def test_a_short_build_does_not_wait_behind_a_long_one(client: Host, twin: Host) -> None:
    """However short it is known to be: the only slot there may be busy for hours, and the one here is free soon."""
    client.trust(twin)
    client.configure(hook=HOOK, builders=f"ssh-ng://{twin.name} - - 1")
    here, there = Gates(client), Gates(twin)
    there.leave_open("d")
    client.run(build_gated("d", seed="before"))
    with running(client, build_gated("a", "b", "c", "d", seed="after", options=["-j1"])) as build:
        there.wait_for("+ a")
        here.wait_inside(1)
        # Nix asks about both that are left, while its own slot is busy.
        there.let_through("a")
        there.wait_for("+ c")
        here.leave_open("d")
        here.let_through("b")
        here.wait_for("- d")
        there.let_through("c")
        assert len(build.communicate(timeout=60)[0].split()) == 4
    is_clean(client, twin)
