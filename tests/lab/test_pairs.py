"""Every client builds on every builder, whatever Nix they run: the graph of graphs/graph.nix, through a daemon."""

import re

import pytest

from tests.lab.host import Host
from tests.lab.lab import GRAPHS
from tests.lab.offload import big, connect, instantiate, nix_build, plain

pytestmark = pytest.mark.lab

PREFIXES = pytest.mark.parametrize("prefix", ["ssh-ng://", "ssh://"])

REPORT = "hello, {seed}\na program\nfetched once\ndeep\none\ntwo\nthree\n"
TOP_LOG = ["starting on top", "a line on standard error", "top is done"]


@PREFIXES
def test_a_graph_is_built_there_and_comes_back_whole(
    client: Host, builder: Host, hook: str | None, prefix: str
) -> None:
    """Several outputs, a fixed output, source inputs: all valid here, right, and with their logs."""
    connect(client, builder, hook, prefix)
    client.start_daemon()
    command = ["nix", "build", "-L", "--json", "--no-link", "-j0", "-f", f"{GRAPHS}/graph.nix", "top"]
    result = client.run([*command, "--argstr", "seed", "graph"])

    drv = instantiate(client, "top", "graph")
    assert f"building '{drv}' on '{plain(builder, prefix)}'" in result.stderr
    assert [line for line in result.stderr.splitlines() if line.startswith("top> ")] == [f"top> {x}" for x in TOP_LOG]
    assert client.run(["nix", "log", drv]).stdout.splitlines() == TOP_LOG

    match = re.search(r'"out":"([^"]+)"', result.stdout)
    assert match is not None
    top = match[1]
    assert client.read_file(f"{top}/report") == REPORT.format(seed="graph")
    assert client.path(f"{top}/zeros").stat().st_size == 300_000
    shapes = str(client.path(f"{top}/shapes").readlink())
    assert client.run(["nix-store", "--query", "--references", top]).stdout.split() == [shapes]
    # What the outputs of `shapes` refer to, and each other; `source` was copied, not referred to.
    closure = client.run(["nix-store", "--query", "--requisites", top]).stdout.split()
    names = {path.partition("-")[2] for path in closure}
    assert names == {"from-source", "shapes", "shapes-dev", "shapes-program", "top"}
    client.run(["nix-store", "--verify", "--check-contents"])


@PREFIXES
def test_a_failing_build_is_reported_once_in_the_builders_words(
    client: Host, builder: Host, hook: str | None, prefix: str
) -> None:
    """The user reads the failure once, with the log's end; what depends on it is never tried; the rest is built."""
    connect(client, builder, hook, prefix)
    client.start_daemon()
    parts = ("failing", "after-failing", "forgetful", "from-source")
    result = client.run(nix_build(*parts, seed="failing", options=["--keep-going"]), check=False)

    assert result.returncode == 1
    failing = instantiate(client, "failing", "failing")
    failures = re.findall(r"^error: build of '(\S+)' on '(\S+)' failed: ", result.stderr, re.MULTILINE)
    assert sorted(failures) == sorted(
        (instantiate(client, part, "failing"), plain(builder, prefix)) for part in ("failing", "forgetful")
    )
    assert result.stderr.count("exit code 3") == 1
    assert "building '" + instantiate(client, "after-failing", "failing") not in result.stderr
    assert client.run(["nix", "log", failing]).stdout.splitlines() == ["about to fail", "no such luck"]
    again = client.run(nix_build("from-source", seed="failing"))
    assert "building" not in again.stderr
    assert client.read_file(f"{again.stdout.strip()}/greeting") == "hello, failing\n"
    client.run(["nix-store", "--verify", "--check-contents"])


def test_a_build_with_features_goes_to_the_machine_that_has_them(client: Host, builder: Host, hook: str | None) -> None:
    connect(client, builder, hook)
    client.start_daemon()
    result = client.run(nix_build("featured", seed="featured"))
    assert re.findall(r"^building '\S+' on '(\S+)'", result.stderr, re.MULTILINE) == [big(builder)]
    assert client.read_file(result.stdout.strip()) == f"{builder.name}\n"


def test_what_nobody_can_build_fails_with_nixs_own_message(client: Host, builder: Host, hook: str | None) -> None:
    connect(client, builder, hook)
    client.start_daemon()
    result = client.run(nix_build("impossible", seed="impossible"), check=False)
    assert result.returncode == 1
    assert "Failed to find a machine for remote build!" in result.stderr
    assert re.search(r"(?i)unable to start any build|local builds are disabled", result.stderr)
