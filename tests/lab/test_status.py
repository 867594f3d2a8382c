"""The commands that look into the broker, while it has a build that lasts as long as the test wants."""

import json
from collections.abc import Iterator

import pytest

from tests.lab.gates import Gates, build_gated
from tests.lab.host import Host
from tests.lab.install import PREFIX
from tests.lab.midway import running
from tests.lab.offload import connect, plain
from tests.lab.terminal import Terminal

pytestmark = [
    pytest.mark.lab,
    pytest.mark.any_hook,
    pytest.mark.parametrize("client", ["sid"], indirect=True, ids=["client-2.34"]),
]

NIX_FERRY = f"{PREFIX}/bin/nix-ferry"


@pytest.fixture
def gates(client: Host, twin: Host, hook: str | None) -> Iterator[Gates]:
    """At least one build is at a gate."""
    connect(client, twin, hook)
    gates = Gates(twin)
    with running(client, build_gated("a", seed="status")) as build:
        gates.wait_inside(1)
        yield gates
        for name in gates.inside():
            gates.let_through(name)
        build.communicate(timeout=60)


def ferry(client: Host, *arguments: str) -> str:
    return client.run([NIX_FERRY, *arguments]).stdout


def test_a_build_is_shown_while_it_runs_and_when_it_is_over(client: Host, twin: Host, gates: Gates) -> None:
    """Its machine, phase and bytes; then what it cost, and why it went there."""
    told = json.loads(ferry(client, "status", "--json"))
    (build,) = told["builds"]
    assert (build["machine"], build["phase"]) == (plain(twin), "building")
    assert build["sent_bytes"] > 0
    machines = {machine["machine"]: machine for machine in told["machines"]}
    assert (machines[plain(twin)]["state"], machines[plain(twin)]["slots_used"]) == ("works", 1)
    assert "1 build is under way" in ferry(client, "status").splitlines()[0]
    metrics = ferry(client, "metrics").splitlines()
    assert f'nix_ferry_builds_under_way{{machine="{plain(twin)}",phase="building"}} 1' in metrics
    with Terminal(client, [NIX_FERRY, "status", "--watch"], columns=100) as terminal:
        terminal.expect(r"\n {100}\r")
        terminal.expect("building")
        terminal.resize(columns=75)
        terminal.expect(r"\n {75}\r")
        gates.let_through("a")
        terminal.expect("no build is under way")
        # The view outlives the broker.
        ferry(client, "broker", "restart")
        pid = json.loads(ferry(client, "status", "--json"))["pid"]
        assert pid != told["pid"]
        terminal.expect(f"process {pid}, for")
        terminal.interrupt()
        status, rest = terminal.finish()
    # The screen from before is back, with the cursor and without a stack trace.
    assert status == 0
    assert "\x1b[?1049l" in rest
    assert "\x1b[?25h" in rest
    assert "Traceback" not in rest
    (over,) = json.loads(ferry(client, "history", "--json"))
    assert (over["derivation"], over["outcome"]) == (build["derivation"], "built")
    assert over["received_bytes"] > 0
    recent = ferry(client, "explain", "--recent", build["derivation"])
    assert f"{build['derivation']}: accept" in recent
    assert f"{plain(twin)}: chosen: load 0/1, 0 of 4 slots busy" in recent
    assert "listening" in ferry(client, "log")
    # As a shell finds them that has the directories above in its path.
    completions = f"{PREFIX}/share/bash-completion/completions/nix-ferry"
    asked = f"PATH={PREFIX}/bin:$PATH; . {completions}; COMP_WORDS=(nix-ferry stat) COMP_CWORD=1"
    asked += '; _nix_ferry_completion nix-ferry; echo "${COMPREPLY[@]}"'
    assert client.run(["bash", "-c", asked]).stdout == "status\n"


def test_an_ordinary_user_is_told_who_may_look(client: Host, gates: Gates) -> None:
    """Builds are root's here."""
    client.add_user("someone")
    done = client.run([NIX_FERRY, "status"], check=False, user="someone")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: '/nix/var/nix/nix-ferry' belongs to user 'root', who builds on this host: run this as 'root'\n"
    )
