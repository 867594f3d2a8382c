"""Builds without a pause on a machine whose disk holds few of their outputs, and which collects garbage for itself.

Two thousand of 10 MB each on a disk of 500 MB, unless `--builds` says otherwise; none may fail, nor be lost for a full
disk.  What a warm connection was used for stays there as long as the connection, so this is about how long that is.
"""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from bench.compare import RESULTS, versions
from tests.lab import install
from tests.lab.host import Host

BUILDS = 2_000
EACH_KIB = 10_000
DISK_MIB, LEAST_FREE_MIB, FREED_MIB = 500, 200, 300
AT_ONCE = 25
"""How many are one command: their outputs are in the client's memory until they are deleted."""

LARGE = """
{ first, n }: builtins.genList (i: derivation {
  name = "large-${toString (first + i)}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  PATH = "/usr/bin:/bin";
  args = [ "-c" "head -c %sK /dev/zero > $out; echo ${toString (first + i)} >> $out" ];
}) n
"""


@pytest.fixture
def small(hosts: tuple[Host, Host]) -> Iterator[Host]:
    """The builder with little room, which collects when it needs some."""
    client, builder = hosts
    builder.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "small", "/nix"])
    builder.configure(min_free=str(LEAST_FREE_MIB << 20), max_free=str(FREED_MIB << 20))
    yield builder
    client.stop_broker()
    builder.wait_idle()
    builder.run(["umount", "/nix"])
    builder.configure()


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
def test_small_disk(hosts: tuple[Host, Host], small: Host, scheme: str, request: pytest.FixtureRequest) -> None:
    client, _ = hosts
    builds = request.config.getoption("builds") or BUILDS
    client.configure(builders=f"{scheme}://{small.name} - - 4")
    client.write_file("/root/large.nix", LARGE % EACH_KIB)
    begun = time.perf_counter()
    for first in range(0, builds, AT_ONCE):
        options = [
            "--arg",
            "first",
            str(first),
            "--arg",
            "n",
            str(min(AT_ONCE, builds - first)),
            "-j0",
            "--no-out-link",
        ]
        environ = {"NIX_CONFIG": f"build-hook = {install.HOOK}"}
        result = client.run(["nix-build", "/root/large.nix", *options], env=environ, timeout=600)
        assert "was lost" not in result.stderr
        client.run(["nix-store", "--gc"])
    seconds = time.perf_counter() - begun
    date = datetime.now(UTC).isoformat(timespec="seconds")
    record = {
        "name": f"small-disk-{scheme}",
        "date": date,
        "versions": versions(),
        "builds": builds,
        "seconds": seconds,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{record['name']}-{date.replace(':', '')}.json").write_text(json.dumps(record, indent=1) + "\n")
