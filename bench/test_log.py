"""A build that prints a lot, next to stock: what every line costs on its way from the builder to Nix.

Two hosts with Nix 2.34 and a real sshd between them; every round builds a new derivation of that many short lines,
200,000 unless `--lines` says otherwise.
"""

import itertools

import pytest

from bench.conftest import MAX_KIB, Compare, peak_of_broker
from tests.lab import install
from tests.lab.host import Host

LINES = 200_000
"""Of the result without a number in its name; of more lines, fewer rounds are run."""

ROUNDS = 5
CHATTY = """
{ seed, lines }: derivation {
  name = "chatty";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "/usr/bin/seq -f 'compiling object number %.0f of many' ${lines}; echo ${seed} > $out" ];
}
"""


SEEDS = itertools.count()


def build(client: Host, hook: str | None, lines: int) -> None:
    """Build a derivation that nobody has built yet, and keep its log."""
    environ = {"NIX_CONFIG": f"build-hook = {hook}"} if hook else {}
    options = ["--argstr", "seed", str(next(SEEDS)), "--argstr", "lines", str(lines), "-j0", "--no-out-link", "--quiet"]
    client.run(["nix-build", "/root/chatty.nix", *options], env=environ, timeout=900)


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
def test_log(hosts: tuple[Host, Host], compare: Compare, scheme: str, request: pytest.FixtureRequest) -> None:
    client, builder = hosts
    lines = request.config.getoption("--lines") or LINES
    client.stop_broker()
    client.write_file("/root/chatty.nix", CHATTY)
    client.configure(builders=f"{scheme}://{builder.name} - - 1")
    sides = {"stock": lambda: build(client, None, lines), "nix-ferry": lambda: build(client, install.HOOK, lines)}
    name = f"log-{scheme}" if lines == LINES else f"log-{lines}-{scheme}"
    compare(name, sides, max(1, ROUNDS * LINES // lines))
    assert peak_of_broker(client) <= MAX_KIB
