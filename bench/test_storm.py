"""Many small builds at once, next to stock: what a connection, a process and a handshake for each of them cost.

Two hosts with Nix 2.34 and a real sshd between them; one machine with 8 slots; every round builds new derivations.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench import delay
from bench.conftest import Compare
from tests.lab import install
from tests.lab.host import Host

BUILDS = 200
STORM = """
{ seed, n }: builtins.genList (i: derivation {
  name = "storm-${toString i}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "echo ${seed} ${toString i} > $out" ];
}) n
"""


@pytest.fixture(autouse=True, scope="module")
def storm_graph(hosts: tuple[Host, Host]) -> None:
    hosts[0].write_file("/root/storm.nix", STORM)


SEEDS = itertools.count()


def storm(
    client: Host, hook: str | None, builds: int, graph: str = "storm", environ: Mapping[str, str] | None = None
) -> None:
    """Build so many derivations that nobody has built yet."""
    configured = {"NIX_CONFIG": f"build-hook = {hook}"} if hook else {}
    options = ["--argstr", "seed", str(next(SEEDS)), "--arg", "n", str(builds), "-j0", "--no-out-link", "--quiet"]
    client.run(["nix-build", f"/root/{graph}.nix", *options], env=configured | dict(environ or {}), timeout=600)


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
def test_storm(hosts: tuple[Host, Host], compare: Compare, scheme: str) -> None:
    client, builder = hosts
    client.configure(builders=f"{scheme}://{builder.name} - - 8")
    sides = {
        "stock": lambda: storm(client, None, BUILDS),
        "nix-ferry": lambda: storm(client, install.HOOK, BUILDS),
    }
    compare(f"storm-{scheme}", sides, 3)


# With 50 ms there and back


DELAY = "/usr/local/bin/delay"
ONE_WAY_S = 0.025
CHAIN = """
{ seed, n }: builtins.foldl' (previous: i: derivation {
  name = "chain-${toString i}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "echo ${seed} ${toString i} ${toString previous} > $out" ];
}) "nothing" (builtins.genList (i: i) n)
"""


@pytest.fixture(scope="module")
def far(hosts: tuple[Host, Host]) -> str:
    """The name by which the client reaches the builder over a link with that round trip."""
    client, builder = hosts
    client.write_file(DELAY, Path(delay.__file__).read_bytes())
    client.trust(builder, "far")
    known = client.read_file("/root/.ssh/hosts/far")
    client.write_file("/root/.ssh/hosts/far", f"{known}  ProxyCommand python3 {DELAY} {ONE_WAY_S} %h %p\n", 0o600)
    client.write_file("/root/chain.nix", CHAIN)
    return "far"


def test_storm_far_away(hosts: tuple[Host, Host], far: str, compare: Compare) -> None:
    client, _ = hosts
    client.configure(builders=f"ssh-ng://{far} - - 8")
    sides = {
        "stock": lambda: storm(client, None, BUILDS),
        "nix-ferry": lambda: storm(client, install.HOOK, BUILDS),
    }
    compare("storm-50ms", sides, 2)


def test_chain_far_away(hosts: tuple[Host, Host], far: str, compare: Compare) -> None:
    """Fifty builds each of which needs the one before: nothing can hide a round trip but not making it."""
    client, _ = hosts
    client.configure(builders=f"ssh-ng://{far} - - 8")
    sides = {
        "stock": lambda: storm(client, None, 50, "chain"),
        "nix-ferry": lambda: storm(client, install.HOOK, 50, "chain"),
    }
    compare("chain-50ms", sides, 3)
