"""A machine with Nix 2.3, by either protocol: the oldest that is built on.

It asks for each piece of what is uploaded, says nothing of its trust or its version, and knows no realisations.
"""

from collections.abc import Sequence

import pytest

from tests.lab import roots
from tests.lab.host import Host
from tests.lab.offload import connect, instantiate, nix_build, plain
from tests.lab.test_pairs import PREFIXES, REPORT, TOP_LOG

pytestmark = [
    pytest.mark.lab,
    pytest.mark.parametrize(
        "builder", roots.OLD, ids=[f"builder-{roots.label(suite)}" for suite in roots.OLD], indirect=True
    ),
]


def build(client: Host, *attributes: str, options: Sequence[str] = ()) -> str:
    """Build attributes of the graph there; what the command said."""
    return client.run(nix_build(*attributes, seed="oldest", options=options), check=False).stderr


@PREFIXES
def test_a_graph_is_built_there_and_comes_back_whole(
    client: Host, builder: Host, hook: str | None, prefix: str
) -> None:
    """Inputs of many files and of none, several outputs, and what is built from those."""
    connect(client, builder, hook, prefix)
    client.start_daemon()
    result = client.run(nix_build("top", seed="oldest", options=["-v"]))
    assert "handing" not in result.stderr
    top = result.stdout.strip()
    drv = instantiate(client, "top", "oldest")
    assert f"building '{drv}' on '{plain(builder, prefix)}'" in result.stderr
    assert client.read_file(f"{top}/report") == REPORT.format(seed="oldest")
    assert client.path(f"{top}/zeros").stat().st_size == 300_000
    assert client.run(["nix-store", "--read-log", drv]).stdout.splitlines() == TOP_LOG
    again = client.run(nix_build("duplicates", seed="oldest"))
    assert again.stdout.strip()
    client.run(["nix-store", "--verify", "--check-contents"])
    builder.run(["nix-store", "--verify", "--check-contents"])


@PREFIXES
def test_large_inputs_arrive_and_are_not_sent_twice(client: Host, builder: Host, hook: str | None, prefix: str) -> None:
    """Larger than any piece that it asks for; the second build reads them, too."""
    connect(client, builder, hook, prefix)
    client.run(["mkdir", "-p", "/root/large"])
    for name, size in (("empty", 0), ("one", 1), ("most", 5_000_000)):
        client.path(f"/root/large/{name}").write_bytes(b"x" * size)
    script = "set -e; for file in $source/*; do while read -r line; do :; done < $file; done; echo $name > $out"
    client.write_file(
        "/root/large.nix",
        "{ name }: derivation { inherit name; source = ./large; system = builtins.currentSystem; "
        f'builder = "/bin/sh"; args = [ "-c" "{script}" ]; }}',
    )
    sent = []
    for name in ("first", "second"):
        result = client.run(["nix-build", "/root/large.nix", "-j0", "--no-out-link", "--argstr", "name", name])
        assert client.read_file(result.stdout.strip()) == f"{name}\n"
        sent.append("-large' to " in result.stderr)
    assert sent == [True, False]


@PREFIXES
def test_a_failure_comes_with_its_log(client: Host, builder: Host, hook: str | None, prefix: str) -> None:
    """Once, in the words of that Nix; what does not depend on it is built."""
    connect(client, builder, hook, prefix)
    client.start_daemon()
    said = build(client, "failing", "from-source", options=["--keep-going"])
    failing = instantiate(client, "failing", "oldest")
    words = (
        f"build of '{failing}' on '{plain(builder, prefix)}' failed: builder for '{failing}' failed with exit code 3"
    )
    assert said.count(words) == 1
    log = client.run(["nix-store", "--read-log", failing]).stdout.splitlines()
    assert log[:2] == ["about to fail", "no such luck"]
    assert "building" not in build(client, "from-source")


def test_what_it_cannot_build_goes_elsewhere(client: Host, builder: Host, hook: str | None) -> None:
    """Its protocol has no word for where a floating output is."""
    features = "nix-command ca-derivations"
    connect(client, builder, hook, supported="ca-derivations", experimental_features=features)
    result = client.run(
        ["nix-build", "/srv/graphs/floating.nix", "-A", "leaf", "--argstr", "seed", "oldest", "-j0", "--no-out-link"],
        check=False,
    )
    assert result.returncode != 0
    assert "too old for content-addressed derivations (Nix 2.4 or newer is needed)" in result.stderr
