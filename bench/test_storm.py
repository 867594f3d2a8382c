"""Many small builds at once, next to stock: what a connection, a process and a handshake for each of them cost.

Two hosts with Nix 2.34 and a real sshd between them; one machine with 8 slots; every round builds new derivations.
"""

import itertools
from collections.abc import Mapping

import pytest

from bench.conftest import Compare
from tests.lab import install
from tests.lab.host import Host

BUILDS = 200
FEWER = 50
STORM = """
{ seed, n }: builtins.genList (i: derivation {
  name = "storm-${toString i}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "echo ${seed} ${toString i} > $out" ];
}) n
"""
CHAIN = """
{ seed, n }: builtins.foldl' (previous: i: derivation {
  name = "chain-${toString i}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "echo ${seed} ${toString i} ${toString previous} > $out" ];
}) "nothing" (builtins.genList (i: i) n)
"""


MIXED = 30
MIX = """
{ seed, n }: builtins.genList (i: derivation {
  name = "mix-${toString i}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "/bin/sleep 3; echo ${seed} ${toString i} > $out" ];
}) n
"""
GRAPHS = {"storm": STORM, "chain": CHAIN, "mix": MIX}
SEEDS = itertools.count()


def storm(
    client: Host,
    hook: str | None,
    builds: int,
    graph: str = "storm",
    environ: Mapping[str, str] | None = None,
    jobs: int = 0,
) -> None:
    """Build so many derivations that nobody has built yet, `jobs` at once here."""
    client.write_file(f"/root/{graph}.nix", GRAPHS[graph])
    configured = {"NIX_CONFIG": f"build-hook = {hook}"} if hook else {}
    options = ["--argstr", "seed", str(next(SEEDS)), "--arg", "n", str(builds), f"-j{jobs}", "--no-out-link", "--quiet"]
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


def test_storm_with_jobs_of_its_own(hosts: tuple[Host, Host], compare: Compare) -> None:
    """Where Nix could build it itself, nothing is promised without proof, nor to wait for long."""
    client, builder = hosts
    client.configure(builders=f"ssh-ng://{builder.name} - - 8")
    sides = {
        "stock": lambda: storm(client, None, BUILDS, jobs=2),
        "nix-ferry": lambda: storm(client, install.HOOK, BUILDS, jobs=2),
    }
    compare("storm-j2", sides, 3)


def test_mix(hosts: tuple[Host, Host], compare: Compare) -> None:
    """Six slots here and one there, for builds that are no matter of milliseconds."""
    client, builder = hosts
    client.configure(builders=f"ssh-ng://{builder.name} - - 1")
    sides = {
        "stock": lambda: storm(client, None, MIXED, "mix", jobs=6),
        "nix-ferry": lambda: storm(client, install.HOOK, MIXED, "mix", jobs=6),
    }
    compare("mix-j6", sides, 3)


# With 50 ms there and back


def test_storm_far_away(hosts: tuple[Host, Host], far: str, compare: Compare) -> None:
    client, _ = hosts
    client.configure(builders=f"ssh-ng://{far} - - 8")
    sides = {
        "stock": lambda: storm(client, None, BUILDS),
        "nix-ferry": lambda: storm(client, install.HOOK, BUILDS),
    }
    compare("storm-50ms", sides, 2)


def test_storm_far_away_with_jobs_of_its_own(hosts: tuple[Host, Host], far: str, compare: Compare) -> None:
    """Fewer, since stock takes a second for each, and waits for five in between."""
    client, _ = hosts
    client.configure(builders=f"ssh-ng://{far} - - 8")
    sides = {
        "stock": lambda: storm(client, None, FEWER, jobs=2),
        "nix-ferry": lambda: storm(client, install.HOOK, FEWER, jobs=2),
    }
    compare("storm-50ms-j2", sides, 2)


def test_chain_far_away(hosts: tuple[Host, Host], far: str, compare: Compare) -> None:
    """Fifty builds each of which needs the one before: nothing can hide a round trip but not making it."""
    client, _ = hosts
    client.configure(builders=f"ssh-ng://{far} - - 8")
    sides = {
        "stock": lambda: storm(client, None, 50, "chain"),
        "nix-ferry": lambda: storm(client, install.HOOK, 50, "chain"),
    }
    compare("chain-50ms", sides, 3)
