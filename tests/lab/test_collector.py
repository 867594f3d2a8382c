"""A collection on the host that gives builds away, while it does so."""

import os
import subprocess

import pytest

from tests.lab.host import Host
from tests.lab.install import HOOK

pytestmark = pytest.mark.lab

BUILDS = 15
OUTPUTS = 40
MANY = f"""
builtins.genList (number: derivation {{
  name = "one-of-many-${{toString number}}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  outputs = builtins.genList (each: "out${{toString each}}") {OUTPUTS};
  args = [ "-c" ''for each in $outputs; do eval "echo $each > \\$$each"; done'' ];
}}) {BUILDS}
"""
FIFO = "/root/fifo"


def test_a_collector_survives_the_builds_that_end_while_it_runs(client: Host, twin: Host) -> None:
    """And spares what they built.  It is stopped where from then on it learns of roots over its socket only."""
    client.trust(twin)
    client.configure(hook=HOOK, builders=f"ssh-ng://{twin.name} - - 4")
    client.write_file("/root/many.nix", MANY)
    client.path(FIFO).unlink(missing_ok=True)
    os.mkfifo(client.path(FIFO))
    # The name of this point up to Nix 2.8, and since.
    environment = {"_NIX_TEST_GC_SYNC": FIFO, "_NIX_TEST_GC_SYNC_2": FIFO}
    collector = client.popen(["nix-store", "--gc"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with client.path(FIFO).open("wb"):
        built = client.run(["nix-build", "/root/many.nix", "-j0", "--no-out-link"], timeout=300)
        assert len(set(built.stdout.split())) == BUILDS
    _, said = collector.communicate(timeout=120)
    assert collector.returncode == 0, said
    client.run(["nix-store", "--check-validity", *built.stdout.split()])
    client.run(["nix-store", "--verify", "--check-contents"])
