"""Content-addressed derivations on every pair of releases, by both protocols: our own work, not the stock hook's."""

import re

import pytest

from hook.store.content import counts_positions
from tests.lab.host import Host, Output
from tests.lab.lab import GRAPHS
from tests.lab.offload import connect
from tests.stockhook import release_of_host

pytestmark = pytest.mark.lab

FEATURES = "nix-command ca-derivations"


def build(client: Host, *options: str, attribute: str = "top", check: bool = True) -> Output:
    """Build what depends on floating outputs, elsewhere only."""
    command = ["nix-build", f"{GRAPHS}/floating.nix", "-A", attribute, "--argstr", "seed", "floating"]
    return client.run([*command, "-j0", "--no-out-link", "-v", *options], check=check)


@pytest.mark.parametrize("prefix", ["ssh-ng://", "ssh://"])
def test_a_floating_graph_is_built_there_and_comes_back_whole(
    client: Host, builder: Host, hook: str | None, prefix: str
) -> None:
    """Dependents are built from outputs whose paths nobody knew before.

    One of those refers to itself, which the one release of the lab hashes otherwise than the others: stock refuses it
    between them, too.
    """
    builder.configure(experimental_features=FEATURES)
    connect(client, builder, hook, prefix, "ca-derivations", experimental_features=FEATURES)
    client.start_daemon()
    rules = {counts_positions(release_of_host(host)) for host in (client, builder)}
    result = build(client, check=len(rules) == 1)
    assert "handing" not in result.stderr
    if len(rules) > 1:
        assert result.returncode != 0
        assert re.search(r"ca hash mismatch importing path '/nix/store/\w+-pair'", result.stderr)
        assert build(client, attribute="leaf").stdout
        return
    top = result.stdout.strip()
    assert client.read_file(f"{top}/text") == "floating\nfloating\n"
    names = {path.partition("-")[2] for path in client.run(["nix-store", "-qR", top]).stdout.split()}
    assert names == {"leaf", "pair", "pair-dev", "top"}
    assert "building" not in build(client).stderr
    client.run(["nix-store", "--verify", "--check-contents"])


def test_the_feature_counts_wherever_it_is_enabled(client: Host, twin: Host, hook: str | None) -> None:
    """From 2.26 on the stock hook does not see what is said on the command line only, and fails."""
    assert hook is not None, "what is tested here is better than stock's"
    twin.configure(experimental_features=FEATURES)
    connect(client, twin, hook, supported="ca-derivations")
    result = build(client, "--extra-experimental-features", "ca-derivations")
    assert client.read_file(f"{result.stdout.strip()}/text") == "floating\nfloating\n"
