"""Callers who see another host than others do: each is served in its own view, whoever came first.

What decides is what stock does: its hook runs where Nix runs.
"""

import re
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.lab import roots
from tests.lab.host import Host, Output
from tests.lab.install import HOOK, PREFIX
from tests.lab.lab import Lab
from tests.lab.offload import nix_build

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]

MACHINES = "/etc/nix/machines"
VIEW = "/srv/view"
"""What is mounted over the files of the same name for some of the callers."""

NO_HOME = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /root && exec "$@"', "sh")
"""As `ProtectHome=tmpfs` has it: no keys and no configuration of ssh."""

NO_NETWORK = ("unshare", "--net")
OTHER_FILES = (
    *("unshare", "--mount", "sh", "-c"),
    f'mount --bind {VIEW}/hosts /root/.ssh/hosts && mount --bind {VIEW}/machines {MACHINES} && exec "$@"',
    "sh",
)


@pytest.fixture
def other(lab: Lab, fresh: Callable[[Host], Host]) -> Host:
    return fresh(lab.builder(roots.SUITES[0]))


def use(client: Host, machine: Host) -> Host:
    """Have `client` build there, and nowhere else."""
    client.trust(machine)
    client.configure(hook=HOOK, builders=f"@{MACHINES}")
    client.write_file(MACHINES, f"ssh-ng://{machine.name} - - 2\n")
    client.run(["nix-store", "--init"])
    return client


@pytest.fixture
def here(lab: Lab, fresh: Callable[[Host], Host], there: Host) -> Host:
    lab.standalone(False)
    return use(fresh(lab.client(roots.SUITES[-1])), there)


def build(client: Host, seed: str, prefix: Sequence[str] = ()) -> Output:
    return client.run([*prefix, *nix_build("from-source", seed=seed)], check=False)


def brokers(client: Host) -> int:
    return sum(bool(re.match(r"\S+ \S*nix-ferry-broker", command)) for command in client.processes().values())


@pytest.mark.parametrize("prefix", [NO_HOME, NO_NETWORK], ids=["no home", "no network"])
def test_who_cannot_reach_a_machine_is_no_reason_for_others(here: Host, prefix: Sequence[str]) -> None:
    """A unit without keys, or in a sandbox, had the first build after the start."""
    assert build(here, "first", prefix).returncode != 0
    assert build(here, "second").returncode == 0
    assert brokers(here) == 2


@pytest.mark.parametrize("prefix", [NO_HOME, NO_NETWORK], ids=["no home", "no network"])
def test_nothing_leaves_a_namespace_through_another(here: Host, prefix: Sequence[str]) -> None:
    """It has no network, or no keys, because somebody wants it so."""
    assert build(here, "first").returncode == 0
    assert build(here, "second", prefix).returncode != 0
    assert build(here, "third").returncode == 0


@pytest.mark.parametrize("first", ["others", "usual"])
def test_files_are_read_as_the_caller_sees_them(here: Host, there: Host, other: Host, first: str) -> None:
    """The machines, ssh's configuration and the known hosts: here one name means two machines."""
    here.run(["sh", "-c", f"rm -rf {VIEW} && mkdir -p {VIEW}/hosts"])
    here.trust(other, "two-faced")
    here.run(["sh", "-c", f"sed s,known_hosts,other_hosts, /root/.ssh/hosts/two-faced > {VIEW}/hosts/two-faced"])
    here.run(["mv", "/root/.ssh/known_hosts.two-faced", "/root/.ssh/other_hosts.two-faced"])
    here.trust(there, "two-faced")
    here.write_file(f"{VIEW}/machines", "ssh-ng://two-faced - - 2 1 - -\n")
    here.write_file(MACHINES, "ssh-ng://two-faced - - 2\n")
    views = {"others": (OTHER_FILES, other), "usual": ((), there)}
    for name in sorted(views, key=lambda name: name != first):
        prefix, machine = views[name]
        out = build(here, name, prefix).stdout.strip()
        assert out
        assert [host.name for host in (there, other) if host.path(out).exists()] == [machine.name]


def test_commands_speak_of_the_broker_of_their_own_namespaces(here: Host) -> None:
    """And say that there are others."""
    ferry = f"{PREFIX}/bin/nix-ferry"
    script = f'"$@"; {ferry} status; exec nsenter --net=/proc/1/ns/net {ferry} status'
    inside, outside = build(here, "first", (*NO_NETWORK, "sh", "-c", script, "sh")).stdout.split("no broker is running")
    assert re.match(r"broker \S+, process \d+", inside)
    assert re.search(r"\nfor builds in other namespaces: process \d+\n$", outside)
    assert re.search(
        r"broker: none runs; .*; for builds in other namespaces", here.run([ferry, "doctor"], check=False).stdout
    )
    here.run([ferry, "broker", "start"])
    assert brokers(here) == 2
    assert build(here, "second").returncode == 0
    here.run([ferry, "broker", "stop"])
    assert brokers(here) == 1


def test_a_namespace_that_is_left_alone_is_given_back_soon(here: Host) -> None:
    """What was mounted in it stays busy for as long; who comes back meanwhile is served."""
    build(here, "first", NO_NETWORK)
    (log,) = [line for line in here.read_file("/nix/var/nix/nix-ferry/broker.log").splitlines() if "listening" in line]
    assert log.endswith("until 60 s without a build")


@pytest.fixture
def read_only(client: Host, other_builder: Host, lab: Lab) -> Iterator[Host]:
    """A client whose store is mounted as on NixOS, and that builds on `other_builder`."""
    lab.standalone(False)
    use(client, other_builder)
    client.run(["mount", "--bind", "/nix/store", "/nix/store"])
    client.run(["mount", "-o", "remount,bind,ro", "/nix/store"])
    yield client
    client.stop_daemon()
    client.stop_broker()
    client.run(["umount", "/nix/store"])


@pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "single-user"])
def test_commands_share_a_broker_though_each_remounts_the_store(read_only: Host, daemon: bool) -> None:
    """Every command that writes to a store that is mounted read-only leaves its mount namespace for one of its own."""
    if daemon:
        read_only.start_daemon()
    for seed in ("first", "second"):
        done = build(read_only, seed)
        assert done.returncode == 0, done.stderr
    assert brokers(read_only) == 1
    assert read_only.read_file("/nix/var/nix/nix-ferry/broker.log").count("listening") == 1
    read_only.run(["nix-store", "--verify", "--check-contents"])


def test_what_is_mounted_later_is_seen(read_only: Host, other_builder: Host) -> None:
    """Though mounts are not propagated, and the broker has made the store writable for itself."""
    assert build(read_only, "first").returncode == 0
    read_only.trust(other_builder, "late")
    read_only.run(["sh", "-c", f"rm -rf {VIEW} && cp -a /root/.ssh/hosts {VIEW} && rm /root/.ssh/hosts/late"])
    read_only.write_file(MACHINES, "ssh-ng://late - - 2\n")
    read_only.run(["mount", "--bind", VIEW, "/root/.ssh/hosts"])
    try:
        done = build(read_only, "second")
        assert done.returncode == 0, done.stderr
        assert brokers(read_only) == 1
    finally:
        read_only.run(["umount", "/root/.ssh/hosts"])
