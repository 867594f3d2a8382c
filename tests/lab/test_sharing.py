"""One connection to a machine carries the builds of many hooks: how many logins that takes, and what ends with what.

A real ssh and sshd, the oldest and the newest; how it is decided is in tests/remote/test_sharing.py.
"""

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from hook.remote.cipher import FIRST, host_has_aes
from tests.lab import roots
from tests.lab.gates import Gates, build_gated
from tests.lab.host import Host, wait_until
from tests.lab.install import HOOK, lasting
from tests.lab.lab import Lab
from tests.lab.midway import WARM, is_clean, kill, running
from tests.lab.offload import nix_build

pytestmark = pytest.mark.lab

SHARED = r"ssh: .* \[mux\]"


class Site:
    """A client and a machine of its release with slots for all gates."""

    def __init__(self, client: Host, builder: Host) -> None:
        self.client, self.builder = client, builder
        client.trust(builder)
        client.configure(hook=HOOK, builders=f"ssh-ng://{builder.name} - - 8")
        self.gates = Gates(builder)
        self._before = self._accepted()

    def _accepted(self) -> int:
        return self.builder.read_file("/var/log/sshd.log").count("Accepted publickey")

    def logins(self) -> int:
        """How often this site's client has logged in."""
        return self._accepted() - self._before

    def shared(self) -> list[str]:
        return [command for command in self.client.processes().values() if re.match(SHARED, command)]


@pytest.fixture(params=[roots.SUITES[0], roots.SUITES[-1]], ids=roots.label)
def site(request: pytest.FixtureRequest, lab: Lab, fresh: Callable[[Host], Host]) -> Iterator[Site]:
    # A hook without one shares nothing.
    lab.standalone(False)
    client, builder = fresh(lab.client(request.param)), fresh(lab.builder(request.param))
    with lasting(client):
        yield Site(client, builder)


def test_many_builds_log_in_once(site: Site) -> None:
    """And when the broker is killed, nothing stays behind for long."""
    with running(site.client, build_gated(*"abcdefgh", seed="many")) as build:
        site.gates.wait_inside(8)
        assert site.logins() == 1
        for name in "abcdefgh":
            site.gates.let_through(name)
        _, stderr = build.communicate(timeout=60)
    assert build.returncode == 0, stderr
    assert len(site.shared()) == 1
    kill(site.client, ".*nix-ferry-broker")
    site.client.wait_idle()
    site.builder.wait_idle()


def test_several_commands_at_once_log_in_once(site: Site) -> None:
    """A crowd at its door is what sshd turns away."""
    with ExitStack() as held:
        builds = [held.enter_context(running(site.client, build_gated(name, seed="crowd"))) for name in "abcd"]
        site.gates.wait_inside(4)
        assert site.logins() == 1
        for name, build in zip("abcd", builds, strict=True):
            site.gates.let_through(name)
            _, stderr = build.communicate(timeout=60)
            assert build.returncode == 0, stderr
    is_clean(site.client, site.builder)


def test_a_build_that_is_given_up_stops_there_and_others_go_on(site: Site) -> None:
    """Also if it was the one that had made the connection."""
    with running(site.client, build_gated("a", seed="stops")) as first:
        site.gates.wait_for("+ a")
        with running(site.client, build_gated("b", seed="stays")) as second:
            site.gates.wait_for("+ b")
            kill(site.client, "nix-build .* stops ", signal.SIGINT)
            first.communicate(timeout=30)
            wait_until(lambda: len(gated(site.builder)) == 1, "end of the build that was given up")
            site.gates.let_through("b")
            _, stderr = second.communicate(timeout=60)
            assert second.returncode == 0, stderr
    assert site.logins() == 1
    is_clean(site.client, site.builder)


def gated(builder: Host) -> list[str]:
    return [command for command in builder.processes().values() if "/srv/gates" in command]


def test_builds_whose_connection_dies_get_another(site: Site) -> None:
    """They are lost together, and done again."""
    with running(site.client, build_gated("a", "b", seed="dies")) as build:
        site.gates.wait_inside(2)
        kill(site.client, SHARED)
        site.gates.wait_for("+ a", times=2)
        site.gates.wait_for("+ b", times=2)
        wait_until(lambda: len(gated(site.builder)) == 2, "end of the builds that were lost")
        for name in "ab":
            site.gates.let_through(name)
        _, stderr = build.communicate(timeout=60)
    assert build.returncode == 0, stderr
    assert stderr.count("was lost (") == 2
    is_clean(site.client, site.builder)


@pytest.mark.parametrize("configured", ["", "aes128-ctr"])
def test_the_cipher_is_the_quickest_unless_one_is_configured(site: Site, configured: str) -> None:
    """Which it was is in the log of sshd."""
    site.builder.stop_sshd()
    site.builder.start_sshd("LogLevel DEBUG1")
    site.client.trust(site.builder)
    before = len(site.builder.read_file("/var/log/sshd.log"))
    if configured:
        site.client.write_file("/root/.ssh/config", f"Ciphers {configured}\nInclude hosts/*\n", 0o600)
    try:
        site.client.run(nix_build("from-source", seed=f"cipher-{configured}"))
        log = site.builder.read_file("/var/log/sshd.log")[before:]
        used = set(re.findall(r"kex: (?:client->server|server->client) cipher: (\S+)", log))
        assert used == {configured or (FIRST if host_has_aes() else "chacha20-poly1305@openssh.com")}
    finally:
        site.builder.stop_sshd()
        site.builder.start_sshd()
        site.client.trust(site.builder)


def test_a_machine_that_allows_fewer_sessions_is_used_all_the_same(site: Site) -> None:
    """Ssh then makes connections of its own, as without sharing."""
    site.builder.stop_sshd()
    site.builder.start_sshd("MaxSessions 2")
    site.client.trust(site.builder)
    try:
        with running(site.client, build_gated(*"abcde", seed="few")) as build:
            site.gates.wait_inside(5)
            assert 2 <= site.logins() <= 4
            for name in "abcde":
                site.gates.let_through(name)
            _, stderr = build.communicate(timeout=60)
        assert build.returncode == 0, stderr
        is_clean(site.client, site.builder)
    finally:
        site.builder.stop_sshd()
        site.builder.start_sshd()


def printed(host: Host) -> list[str]:
    """What the builder that prints without an end has done up to now."""
    found = [pid for pid, command in host.processes().items() if command.startswith("yes ")]
    return [Path(f"/proc/{pid}/io").read_text() for pid in found]


def is_kept_back(host: Host) -> bool:
    """Whether it has not gone on for a second."""
    before = printed(host)
    time.sleep(1)
    return bool(before) and before == printed(host)


def test_a_build_whose_log_nobody_takes_ends_with_its_caller(site: Site) -> None:
    """While the connection stays, sshd waits for what it runs, and that for somebody to take its log."""
    logs = partial(nix_build, seed="sharing", graph="logs")
    site.client.configure(hook=HOOK, builders=f"ssh://{site.builder.name} - - 8")
    site.client.run(logs("long-line"))
    with running(site.client, logs("endless")) as build:
        wait_until(lambda: is_kept_back(site.builder), "a log that nobody takes")
        kill(site.client, "nix-build")
        site.builder.wait_idle(but=WARM)
        build.communicate()
    is_clean(site.client, site.builder)
