"""Links that die without a word: ssh notices within its keep-alive, at every step, and the build goes elsewhere.

A real ssh through a relay that stops forwarding and tells nobody.  Its limits are shortened by NIX_SSHOPTS, as any user
can.  Daemons that do nothing more on a live link are in tests/session/test_silence.py.
"""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from hook.machines.health import PROVEN_S
from tests.lab import relay, roots
from tests.lab.gates import Gates, build_gated
from tests.lab.host import Host, Output, wait_until
from tests.lab.install import EVER_S, HOOK, altered
from tests.lab.lab import Lab
from tests.lab.midway import SSHD_SESSION, is_clean, kill

pytestmark = pytest.mark.lab

RELAY = "/usr/local/bin/relay"
RELAY_PROCESS = r"python3 /usr/local/bin/relay "
CONNECT_S = 4
QUICK = {"NIX_SSHOPTS": f"-oConnectTimeout={CONNECT_S} -oServerAliveInterval=1 -oServerAliveCountMax=2"}
UNAWARE = {"NIX_SSHOPTS": f"-oConnectTimeout={CONNECT_S}"}
"""It takes ssh's usual time to notice that a link is dead, which is longer than a test."""

NO_LIMIT = 1 << 40
HALF = 4 << 20
COPY = """
{ seed }: derivation {
  name = "copy-${seed}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "/bin/cat ${./large} > $out" ];
}
"""
"""Both its input and its output have 8 MiB."""


class Site:
    """A client, a machine at the end of a link that may die, and a slower one that is well."""

    def __init__(self, client: Host, far: Host, near: Host) -> None:
        self.client, self.far, self.near = client, far, near
        client.write_file(RELAY, Path(relay.__file__).read_bytes())
        client.run(["rm", "-f", relay.CUT])
        client.write_file("/root/copy.nix", COPY)
        client.run(["dd", "if=/dev/urandom", "of=/root/large", "bs=1M", "count=8", "status=none"])
        for host in (far, near):
            client.trust(host)
        self.machines = f"ssh-ng://{far.name} - - 2 9 ; ssh-ng://{near.name} - - 2"
        self._far = client.read_file(f"/root/.ssh/hosts/{far.name}")
        self.connect_through(f"python3 {RELAY} {NO_LIMIT} {NO_LIMIT} %h %p")
        client.configure(hook=HOOK, builders=self.machines)

    def connect_through(self, command: str) -> None:
        """Reach the far machine by this ProxyCommand."""
        self.client.write_file(f"/root/.ssh/hosts/{self.far.name}", f"{self._far}  ProxyCommand {command}\n", 0o600)

    def copy(self, seed: str, options: Sequence[str] = ("-j0",), environ: Mapping[str, str] = QUICK) -> Output:
        command = ["nix-build", "/root/copy.nix", "--argstr", "seed", seed, "--no-out-link", *options]
        return self.client.run(command, env=environ, timeout=60)

    @contextmanager
    def building(self, name: str, seed: str) -> Iterator["subprocess.Popen[str]"]:
        child = self.client.popen(build_gated(name, seed=seed), env=QUICK)
        try:
            yield child
        finally:
            self.client.end(child)


@pytest.fixture
def site(lab: Lab, fresh: Callable[[Host], Host]) -> Site:
    newest = roots.SUITES[-1]
    return Site(fresh(lab.client(newest)), fresh(lab.builder(newest)), fresh(lab.builder(roots.SUITES[0])))


def test_a_machine_that_never_answers_costs_one_connect_timeout(site: Site) -> None:
    """A firewall that drops from the start."""
    site.connect_through("sleep 1000")
    result = site.copy("connect")
    assert result.stderr.count("cannot build on") == 1
    assert "it did not answer in time: Connection timed out during banner exchange" in result.stderr
    is_clean(site.client, site.far, site.near)


@pytest.mark.parametrize(("up", "down"), [(HALF, NO_LIMIT), (NO_LIMIT, HALF)], ids=["upload", "download"])
def test_a_link_that_dies_in_the_middle_of_a_copy(site: Site, up: int, down: int) -> None:
    """The other end neither takes nor sends anything more, and says nothing."""
    site.connect_through(f"python3 {RELAY} {up} {down} %h %p")
    result = site.copy("copy")
    assert f"'ssh-ng://{site.far.name}' was lost (" in result.stderr
    is_clean(site.client, site.far, site.near)


def test_a_link_that_dies_while_its_connection_is_kept_warm(lab: Lab, site: Site) -> None:
    """The next build finds out, or nobody needs to; only a broker keeps any."""
    lab.standalone(False)
    site.copy("first")
    kill(site.client, RELAY_PROCESS, signal.SIGUSR1)
    assert site.copy("second").returncode == 0
    is_clean(site.client, site.far, site.near)


def cut(site: Site) -> None:
    """Whoever unplugs it tells nobody; nor does anybody get through who tries again."""
    site.client.write_file(relay.CUT, "")
    kill(site.client, RELAY_PROCESS, signal.SIGUSR1)


def shut_down(site: Site) -> None:
    site.far.stop_sshd()
    kill(site.far, SSHD_SESSION)


@pytest.mark.parametrize("go", [cut, shut_down])
def test_what_this_host_can_build_is_not_given_to_a_machine_that_has_gone(
    lab: Lab, site: Site, go: Callable[[Site], None]
) -> None:
    """It answered a moment ago; stock finds out when it connects, and so must we, in no more time."""
    lab.standalone(False)
    site.client.configure(hook=HOOK, builders=f"ssh-ng://{site.far.name} - - 2")
    # A machine that has failed is left alone until the end.
    with altered(site.client, "hook.errors", SOON_S=EVER_S):
        before = site.copy("first", ["-j1"], UNAWARE)
    assert "from 'ssh-ng://" in before.stderr
    go(site)
    answered = time.monotonic()
    wait_until(lambda: time.monotonic() - answered > PROVEN_S, "a proof to grow old")
    began = time.monotonic()
    result = site.copy("second", ["-j1"], UNAWARE)
    found_out = time.monotonic()
    assert result.stderr.count(f"cannot build on 'ssh-ng://{site.far.name}': ") == 1
    # The next ones do not even try.
    assert "cannot build on" not in site.copy("third", ["-j1"], UNAWARE).stderr
    assert found_out - began < time.monotonic() - found_out + CONNECT_S
    if go is shut_down:
        site.far.start_sshd()
    else:
        # Whoever has not noticed yet does so now.
        kill(site.client, RELAY_PROCESS)
    is_clean(site.client, site.far, site.near)


def test_a_silent_build_goes_on_and_one_behind_a_dead_link_moves(site: Site) -> None:
    """Both are silent for as long; only one of them has a machine."""
    far, near = Gates(site.far), Gates(site.near)
    near.leave_open("a", "moved")
    with site.building("a", "moves") as build:
        far.wait_for("+ a")
        site.client.configure(hook=HOOK, builders=f"ssh-ng://{site.near.name} - - 2")
        with site.building("b", "stays") as silent:
            near.wait_for("+ b")
            kill(site.client, RELAY_PROCESS, signal.SIGUSR1)
            _, stderr = build.communicate(timeout=60)
            assert build.returncode == 0, stderr
            assert f"'ssh-ng://{site.far.name}' was lost (" in stderr
            assert silent.poll() is None
            near.let_through("b")
            _, stderr = silent.communicate(timeout=60)
            assert silent.returncode == 0, stderr
            assert "was lost" not in stderr
    is_clean(site.client, site.far, site.near)
