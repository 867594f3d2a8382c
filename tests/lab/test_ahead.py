"""Inputs that travel before there is a slot, with real daemons."""

import shlex

import pytest

from tests.lab.gates import Gates, build_gated
from tests.lab.host import Host, wait_until
from tests.lab.install import HOOK
from tests.lab.midway import is_clean, running

pytestmark = pytest.mark.lab

SAID = "/root/said"


def test_a_build_has_its_inputs_on_one_machine_and_is_built_on_another(
    client: Host, twin: Host, other_builder: Host
) -> None:
    """It would rather wait for the faster one; the other one is free first."""
    fast, slow = twin, other_builder
    for host in (fast, slow):
        client.trust(host)
    client.configure(hook=HOOK, builders=f"ssh-ng://{fast.name} - - 1 9 ; ssh-ng://{slow.name} - - 1 1")
    at_fast, at_slow = Gates(fast), Gates(slow)
    command = build_gated("a", "b", "c", seed="moves", options=["-j0", "-v"])
    with running(client, ["sh", "-c", f"exec {shlex.join(command)} 2> {SAID}"]) as build:
        at_fast.wait_inside(1)
        at_slow.wait_inside(1)
        if not client.standalone:
            waits = f"waits for a slot on 'ssh-ng://{fast.name}'"
            wait_until(lambda: waits in client.read_file(SAID), "the third build")
            assert (at_fast.inputs(), at_slow.inputs()) == (2, 1)
        at_slow.let_through(*at_slow.inside())
        wait_until(lambda: at_slow.inputs() == 2, "the inputs on the other machine")
        at_slow.wait_inside(1)
        at_slow.let_through(*at_slow.inside())
        at_fast.let_through(*at_fast.inside())
        assert len(build.communicate(timeout=60)[0].split()) == 3
    assert client.standalone or f"on 'ssh-ng://{slow.name}', which was free first" in client.read_file(SAID)
    is_clean(client, fast, slow)
