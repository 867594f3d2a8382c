"""Many small builds at once, next to stock: what a connection, a process and a handshake for each of them cost.

Two hosts with Nix 2.34 and a real sshd between them; one machine with 8 slots; every round builds new derivations.
"""

import itertools
from collections.abc import Iterator

import pytest

from bench.conftest import Compare
from tests.lab import install
from tests.lab.host import Host
from tests.lab.lab import Lab

SUITE = "sid"
BUILDS = 200
STORM = """
{ seed, n }: builtins.genList (i: derivation {
  name = "storm-${toString i}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "echo ${seed} ${toString i} > $out" ];
}) n
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    with Lab(lambda: install.build(tmp_path_factory.mktemp("nix-ferry"))) as lab:
        client, builder = lab.client(SUITE), lab.builder(SUITE)
        client.trust(builder)
        client.write_file("/root/storm.nix", STORM)
        yield client, builder


SEEDS = itertools.count()


def storm(client: Host, hook: str | None, builds: int) -> None:
    """Build everything; the configuration is written anew, so that both sides do the same."""
    environ = {"NIX_CONFIG": f"build-hook = {hook}"} if hook else {}
    options = ["--argstr", "seed", str(next(SEEDS)), "--arg", "n", str(builds), "-j0", "--no-out-link", "--quiet"]
    client.run(["nix-build", "/root/storm.nix", *options], env=environ, timeout=300)


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
def test_storm(hosts: tuple[Host, Host], compare: Compare, scheme: str) -> None:
    client, builder = hosts
    client.configure(builders=f"{scheme}://{builder.name} - - 8")
    sides = {
        "stock": lambda: storm(client, None, BUILDS),
        "nix-ferry": lambda: storm(client, install.HOOK, BUILDS),
    }
    compare(f"storm-{scheme}", sides, 3)
