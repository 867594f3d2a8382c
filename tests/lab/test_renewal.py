"""What a machine gets back while builds come without a pause: its disk, and the last word on who may log in.

When a connection is replaced is tested in tests/remote/test_pool.py.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.lab import roots
from tests.lab.host import Host, wait_until
from tests.lab.install import HOOK
from tests.lab.lab import Lab

pytestmark = pytest.mark.lab

BUILD = """
{ name, kib ? "1" }: derivation {
  name = "part-${name}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  PATH = "/usr/bin:/bin";
  args = [ "-c" "head -c ${kib}K /dev/zero > $out; echo ${name} >> $out" ];
}
"""
LOOP = """
n=0
while [ ! -e /root/stop ]; do
  read -r now rest < /proc/uptime
  echo $now >> /root/begun
  nix-build /root/build.nix -j0 --no-out-link --argstr name $n >> /root/built 2>> /root/said || exit 1
  n=$((n + 1))
done
"""
ENOUGH = 45
MINUTE_S = 60.0


class Site:
    """A client and a machine that can be built on again and again."""

    def __init__(self, client: Host, machine: Host) -> None:
        self.client, self.machine = client, machine
        client.trust(machine)
        client.write_file("/root/build.nix", BUILD)

    def built(self) -> list[str]:
        """The outputs of all builds so far, the oldest first."""
        path = self.client.path("/root/built")
        return path.read_text().split() if path.exists() else []

    def said(self) -> str:
        return self.client.read_file("/root/said")

    @contextmanager
    def building(self) -> Iterator[None]:
        """Builds without a pause, none of which fails."""
        with self.client.popen(["sh", "-c", LOOP]) as loop:
            try:
                yield
                assert loop.poll() is None, self.said()
                self.client.write_file("/root/stop", "")
                loop.communicate(timeout=60)
                assert loop.returncode == 0, self.said()
            finally:
                self.client.end(loop)

    def collect(self) -> None:
        """Delete what nobody needs there."""
        self.machine.run(["nix-store", "--gc"])


@pytest.fixture
def site(lab: Lab, fresh: Callable[[Host], Host]) -> Site:
    """With an sshd that does not lock out who has failed to log in, as newer ones do."""
    return Site(fresh(lab.client(roots.SUITES[-1])), fresh(lab.builder(roots.SUITES[0])))


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
def test_a_collection_frees_what_was_built_while_builds_come(site: Site, scheme: str) -> None:
    """As with stock, but for the last seconds; and no build fails for it."""
    site.client.configure(hook=HOOK, builders=f"{scheme}://{site.machine.name}")
    with site.building():
        wait_until(lambda: len(site.built()) >= ENOUGH, f"{ENOUGH} builds", timeout_s=120)
        first = site.built()[:ENOUGH]
        begun = time.monotonic()

        def left() -> list[str]:
            site.collect()
            return [path for path in first if site.machine.path(path).exists()]

        wait_until(lambda: not left(), "the end of what was built", timeout_s=MINUTE_S)
        assert time.monotonic() - begun < MINUTE_S / 2
        more = len(site.built()) + 3
        wait_until(lambda: len(site.built()) >= more, "more builds")
    # Two Nixes that meet in a database: the one that says so asks again.
    said = [line for line in site.said().splitlines() if not line.endswith("db.sqlite' is busy")]
    assert [line for line in said if "error" in line or "warning" in line] == []


SMALL_BYTES = 300 << 20
LEAST_FREE_BYTES, FREED_BYTES = 140 << 20, 220 << 20
EACH_KIB = 30 << 10
BUILDS = 14


@pytest.fixture
def small(site: Site, lab: Lab) -> Iterator[Site]:
    """The machine has little room, and collects when it needs some."""
    site.machine.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "small", "/nix"])
    site.machine.configure(min_free=str(LEAST_FREE_BYTES), max_free=str(FREED_BYTES))
    yield site
    lab.stop_brokers()
    site.machine.wait_idle()
    site.machine.run(["umount", "/nix"])


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
def test_a_small_disk_that_collects_for_itself_takes_one_build_after_the_other(small: Site, scheme: str) -> None:
    """Ten times what fits there; what we keep between builds would fill it."""
    small.client.configure(hook=HOOK, builders=f"{scheme}://{small.machine.name}")
    command = ["nix-build", "/root/build.nix", "-j0", "--no-out-link", "--argstr", "kib", str(EACH_KIB)]
    for number in range(BUILDS):
        result = small.client.run([*command, "--argstr", "name", str(number)])
        assert "No space left" not in result.stderr
        small.client.run(["nix-store", "--delete", result.stdout.strip()])


@pytest.mark.any_hook
def test_a_key_that_is_not_let_in_any_more_is_noticed_within_a_minute(site: Site) -> None:
    """Although builds come without a pause, and every one of them finds a connection."""
    site.client.configure(hook=HOOK, builders=f"ssh-ng://{site.machine.name}")
    with pytest.raises(AssertionError, match="it refused the login"), site.building():
        wait_until(lambda: len(site.built()) > 3, "the first builds")
        site.machine.write_file("/etc/ssh/authorized_keys", "")
        removed = time.clock_gettime(time.CLOCK_BOOTTIME)
        wait_until(lambda: "it refused the login" in site.said(), "the refusal", timeout_s=MINUTE_S)
    *_, last_success, _ = map(float, site.client.read_file("/root/begun").split())
    assert last_success < removed + MINUTE_S
