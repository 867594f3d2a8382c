"""Stock hooks and ours at the same time on one client: together they keep to a machine's max jobs.

Builds of ours that wait have their inputs there meanwhile, at most as many of them as there are slots.

Every build writes down its start and its end there, and lasts until the test lets it go; so what runs at once is known
exactly, and each change of the builds that run is one of these hooks following another.
"""

import re
import shlex

import pytest

from tests.lab.gates import Gates, build_gated
from tests.lab.host import Host, wait_until
from tests.lab.install import HOOK

pytestmark = pytest.mark.lab

SLOTS = 2
BUILDS = {"stock": ("a", "b", "c"), "ours": ("d", "e", "f")}
SAID = "/root/said-by-"


def answered(client: Host) -> set[str]:
    """Return the derivations that were accepted, or that Nix was told to ask for later."""
    said = "".join(client.path(SAID + kind).read_text() for kind in BUILDS if client.path(SAID + kind).exists())
    return set(re.findall(r"^(?:waiting for a machine to build|building) '([^']*)'", said, re.MULTILINE))


def kinds(names: list[str]) -> set[str]:
    return {kind for kind, own in BUILDS.items() if set(names) & set(own)}


def test_both_kinds_of_hook_keep_to_the_slots_of_a_machine(client: Host, twin: Host) -> None:
    """Not even the first time, when all ask at once; and a slot of one kind is taken by the other."""
    client.trust(twin)
    client.configure(builders=f"ssh-ng://{twin.name} - - {SLOTS}", build_poll_interval="1")
    # Two commands that make the same store at the same time trip over each other, whichever hook they have.
    client.run(["nix-store", "--init"])
    environment = {"stock": {}, "ours": {"NIX_CONFIG": f"build-hook = {HOOK}"}}
    total = sum(len(names) for names in BUILDS.values())
    gates = Gates(twin)
    commands = []
    try:
        for kind, names in BUILDS.items():
            line = f"exec {shlex.join(build_gated(*names, seed='shared'))} 2> {SAID}{kind}"
            commands.append(client.popen(["sh", "-c", line], env=environment[kind]))
        wait_until(lambda: len(answered(client)) == total, "an answer to every request")
        if not client.standalone:
            wait_until(lambda: gates.inputs() > SLOTS, "inputs of a build that waits")
        together = []
        for left in range(total, 0, -1):
            gates.wait_inside(min(SLOTS, left))
            # Those that have ended, those that run, and those that may be ahead.
            assert gates.inputs() <= total - left + SLOTS + SLOTS
            first, *_ = running = gates.inside()
            together.append(kinds(running))
            gates.let_through(first)
            gates.wait_for(f"- {first}")
        outputs = [command.communicate(timeout=60)[0].split() for command in commands]
    finally:
        for command in commands:
            client.end(command)
    assert [len(paths) for paths in outputs] == [len(names) for names in BUILDS.values()]
    assert gates.most_at_once() == SLOTS
    assert {"stock", "ours"} in together
