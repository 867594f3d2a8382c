"""`nix-ferry machine`: machines removed, taken out of use and tried again, next to what Nix then does with them.

How one is added is in test_add.py.
"""

import json
import shlex
from collections.abc import Callable

import pytest

from tests.lab import roots
from tests.lab.gates import Gates, build_gated
from tests.lab.host import Host, wait_until
from tests.lab.install import EVER_S, HOOK, altered
from tests.lab.lab import Lab
from tests.lab.machines import MACHINES, newest
from tests.lab.midway import is_clean, running
from tests.lab.offload import instantiate, nix_build
from tests.lab.test_command import ferry, outcome, verdicts

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]

SAID = "/root/said"


def states(client: Host) -> dict[str, tuple[str, int]]:
    """State and busy slots, by machine."""
    listed = json.loads(ferry(client, "machine", "list", "--json").stdout)
    return {entry["machine"]: (entry["state"], entry["busy"]) for entry in listed}


@newest
def test_a_disabled_machine_keeps_what_it_builds_and_gets_no_more(
    client: Host, twin: Host, other_builder: Host
) -> None:
    """A build that has its inputs there, and only waits, goes elsewhere; every command says why; enabling undoes it."""
    fast, slow = f"ssh-ng://{twin.name}", f"ssh-ng://{other_builder.name}"
    for host in (twin, other_builder):
        host.run(["nix-store", "--init"])
        client.trust(host)
    client.configure(hook=HOOK, builders=f"{fast} - - 1 9 ; {slow} - - 1 1")
    client.write_file(SAID, "")
    at_fast, at_slow = Gates(twin), Gates(other_builder)
    command = build_gated("a", "b", "c", seed="disabled", options=["-j0", "-v"])
    with running(client, ["sh", "-c", f"exec {shlex.join(command)} 2> {SAID}"]) as build:
        at_fast.wait_inside(1)
        at_slow.wait_inside(1)
        waits = f"waits for a slot on '{fast}'"
        wait_until(lambda: waits in client.read_file(SAID), "the third build")
        said = ferry(client, "machine", "disable", twin.name).stdout
        assert said.startswith(f"'{fast}' is disabled by the user since 2")
        leaves = f"leaves '{fast}': disabled by the user"
        wait_until(lambda: leaves in client.read_file(SAID), "the third build leaves")
        with running(client, ["/opt/nix-ferry/bin/nix-ferry", "machine", "drain", "--wait", fast]) as drain:
            assert drain.stdout is not None
            assert [drain.stdout.readline() for _ in range(2)] == [said, "1 build is running there\n"]
            assert states(client) == {fast: ("draining", 1), slow: ("enabled", 1)}
            at_fast.let_through(*at_fast.inside())
            assert drain.communicate(timeout=60)[0] == "nothing is running there\n"
        at_slow.let_through(*at_slow.inside())
        wait_until(lambda: len(at_slow.log()) == 3, "the third build on the other machine")
        at_slow.let_through(*at_slow.inside())
        assert len(build.communicate(timeout=60)[0].split()) == 3
    assert (len(at_fast.log()), len(at_slow.log())) == (2, 4)
    assert states(client) == {fast: ("disabled", 0), slow: ("enabled", 0)}

    shown = ferry(client, "explain", instantiate(client, "from-source", "disabled"), "--option", "max-jobs", "0").stdout
    assert verdicts(shown)[fast].startswith("disabled by the user since")
    assert outcome(shown) == f"so it goes to '{slow}'"
    checks = json.loads(ferry(client, "doctor", "--json").stdout)
    (state,) = [check for check in checks if check["check"] == "state"]
    assert (state["subject"], state["level"], state["fix"]) == (fast, "note", f"nix-ferry machine enable '{fast}'")
    assert state["text"].startswith("disabled by the user since")

    assert ferry(client, "machine", "enable", fast).stdout == f"'{fast}' is enabled\n"
    built = client.run(nix_build("from-source", seed="disabled"))
    assert f"on '{fast}'" in built.stderr
    is_clean(client, twin, other_builder)


@newest
def test_while_all_machines_are_disabled_nix_waits_and_says_so(client: Host, twin: Host) -> None:
    """And goes on by itself when one is enabled."""
    client.trust(twin)
    machine = f"ssh-ng://{twin.name}"
    client.configure(hook=HOOK, builders=machine)
    client.write_file(SAID, "")
    ferry(client, "machine", "disable", machine)
    command = shlex.join(nix_build("from-source", seed="all-disabled"))
    with running(client, ["sh", "-c", f"exec {command} 2> {SAID}"]) as build:
        waiting = f"waiting for a machine: '{machine}': disabled by the user since"
        wait_until(lambda: waiting in client.read_file(SAID), "the reason")
        ferry(client, "machine", "enable", machine)
        assert build.communicate(timeout=60)[0].startswith("/nix/store/")


@newest
def test_a_machine_is_removed_from_its_file(client: Host, twin: Host) -> None:
    """By its host or address, with all its lines; what else is in the file stays, as does who may read it."""
    client.configure(hook=HOOK)
    text = "# ours\nssh-ng://b1 - - 4 # fast\n\nssh-ng://b2 ; ssh://b1\n"
    client.write_file(MACHINES, text, 0o640)
    ferry(client, "machine", "disable", "ssh://b1")
    assert [entry[0] for entry in states(client).values()] == ["enabled", "enabled", "disabled"]
    told = ferry(client, "machine", "remove", "b1").stdout
    assert told == f"removed from {MACHINES}: ssh-ng://b1 - - 4\nremoved from {MACHINES}: ssh://b1\n"
    assert client.read_file(MACHINES) == "# ours\n\nssh-ng://b2\n"
    assert client.path(MACHINES).stat().st_mode & 0o777 == 0o640
    missing = ferry(client, "machine", "remove", "b1", check=False)
    said = "error: no machine of 'builders' is called 'b1'; there are: 'ssh-ng://b2'\n"
    assert (missing.returncode, missing.stderr) == (1, said)
    client.write_file(MACHINES, text)
    assert states(client)["ssh://b1"] == ("enabled", 0)
    inline = ferry(client, "machine", "remove", "b3", "--option", "builders", "ssh://b3", check=False)
    assert inline.stderr == "error: it is not in a file but in 'builders' itself: change it in nix.conf\n"


@newest
def test_only_who_runs_the_builds_can_disable_a_machine(client: Host) -> None:
    client.add_user("alice")
    client.configure(hook=HOOK, builders="ssh-ng://b1")
    client.start_daemon()
    client.run(["nix-store", "--init"])
    refused = ferry(client, "machine", "disable", "b1", user="alice", check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "Permission denied; run this as root" in refused.stderr
    assert states(client)["ssh-ng://b1"] == ("enabled", 0)
    for state in ("enabled", "?"):
        # Of what root has disabled, only root can tell.
        shown = ferry(client, "machine", "list", user="alice").stdout.splitlines()
        assert shown[1].split() == ["ssh-ng://b1", "x86_64-linux", "0/1", "1", "-", state, "builders"]
        ferry(client, "machine", "disable", "b1")


@newest
@pytest.mark.parametrize("command", ["ping", "doctor", "machine enable {}", "machine retry {}"])
def test_a_machine_that_was_seen_to_work_is_not_left_alone_any_more(
    lab: Lab, fresh: Callable[[Host], Host], client: Host, command: str
) -> None:
    """Whoever has repaired something there looks whether it works; builds would wait for minutes all the same.

    A newer sshd would lock out who has failed to log in.
    """
    twin = fresh(lab.builder(roots.SUITES[0]))
    twin.run(["nix-store", "--init"])
    client.trust(twin)
    client.configure(hook=HOOK, builders=f"ssh-ng://{twin.name}")
    keys = twin.read_file("/etc/ssh/authorized_keys")
    twin.write_file("/etc/ssh/authorized_keys", "")
    # It is left alone until the end.
    with altered(client, "hook.errors", LATER_S=EVER_S):
        assert client.run(nix_build("from-source", seed="left"), check=False).returncode != 0

    def state() -> str:
        (machine,) = json.loads(ferry(client, "status", "--json").stdout)["machines"]
        return str(machine["state"])

    assert state() == "failed"
    assert ferry(client, "ping", check=False).returncode == 1
    assert state() == "failed"
    twin.write_file("/etc/ssh/authorized_keys", keys)
    said = ferry(client, *command.format(twin.name).split(), check=False).stdout
    assert state() == "not asked lately"
    if "retry" in command:
        assert said.startswith(f"'ssh-ng://{twin.name}' is tried again; it had failed: it refused the login: ")
    result = client.run(nix_build("from-source", seed="left"))
    assert "next try in" not in result.stderr
