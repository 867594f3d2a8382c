"""A build that prints a lot, next to stock: what every line costs on its way from the builder to Nix.

Two hosts with Nix 2.34 and a real sshd between them; every round builds a new derivation of that many short lines.
"""

import itertools
from collections.abc import Iterator

import pytest

from bench.conftest import Compare
from tests.lab import install
from tests.lab.host import Host
from tests.lab.lab import Lab

SUITE = "sid"
LINES = 200_000
CHATTY = """
{ seed, lines }: derivation {
  name = "chatty";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "/usr/bin/seq -f 'compiling object number %.0f of many' ${lines}; echo ${seed} > $out" ];
}
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    with Lab(lambda: install.build(tmp_path_factory.mktemp("nix-ferry"))) as lab:
        client, builder = lab.client(SUITE), lab.builder(SUITE)
        client.trust(builder)
        client.write_file("/root/chatty.nix", CHATTY)
        yield client, builder


SEEDS = itertools.count()


def build(client: Host, hook: str | None) -> None:
    """Build a derivation that nobody has built yet, and keep its log."""
    environ = {"NIX_CONFIG": f"build-hook = {hook}"} if hook else {}
    options = ["--argstr", "seed", str(next(SEEDS)), "--argstr", "lines", str(LINES), "-j0", "--no-out-link", "--quiet"]
    client.run(["nix-build", "/root/chatty.nix", *options], env=environ, timeout=300)


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
def test_log(hosts: tuple[Host, Host], compare: Compare, scheme: str) -> None:
    client, builder = hosts
    client.configure(builders=f"{scheme}://{builder.name} - - 1")
    sides = {"stock": lambda: build(client, None), "nix-ferry": lambda: build(client, install.HOOK)}
    compare(f"log-{scheme}", sides, 5)
