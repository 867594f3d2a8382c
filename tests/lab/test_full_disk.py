"""A machine whose disk is full: no build fails for that, and the next ones do not find out again."""

from collections.abc import Callable, Iterator

import pytest

from hook.remote.diagnosis import is_disk_full
from tests.lab import roots
from tests.lab.host import Host, Output
from tests.lab.install import EVER_S, HOOK, altered
from tests.lab.lab import Lab
from tests.lab.midway import is_clean

pytestmark = pytest.mark.lab

COPY = """
{ seed }: derivation {
  name = "copy-${seed}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "/bin/cat ${./large} > $out" ];
}
"""
"""Both its input and its output have 8 MiB."""

INPUT_DOES_NOT_FIT, OUTPUT_DOES_NOT_FIT = "6m", "14m"


@pytest.fixture
def full(request: pytest.FixtureRequest, lab: Lab, builder: Host) -> Iterator[Host]:
    """A builder with little room for its store."""
    builder.run(["mount", "-t", "tmpfs", "-o", f"size={request.param}", "small", "/nix"])
    yield builder
    lab.stop_brokers()
    builder.wait_idle()
    builder.run(["umount", "/nix"])


@pytest.mark.parametrize("builder", [roots.SUITES[0], roots.SUITES[-1]], ids=roots.label, indirect=True)
@pytest.mark.parametrize(
    ("scheme", "full"),
    [("ssh-ng", INPUT_DOES_NOT_FIT), ("ssh", INPUT_DOES_NOT_FIT), ("ssh-ng", OUTPUT_DOES_NOT_FIT)],
    ids=["upload", "upload-ssh", "build"],
    indirect=["full"],
)
def test_a_build_moves_on_from_a_full_disk_and_others_do_not_go_there(
    lab: Lab, fresh: Callable[[Host], Host], full: Host, scheme: str
) -> None:
    """It is no failure of the build, and one build is enough to find out."""
    client, other = fresh(lab.client(roots.SUITES[-1])), fresh(lab.builder(roots.SUITES[1]))
    for host in (full, other):
        client.trust(host)
    client.write_file("/root/copy.nix", COPY)
    client.run(["dd", "if=/dev/urandom", "of=/root/large", "bs=1M", "count=8", "status=none"])
    client.configure(hook=HOOK, builders=f"{scheme}://{full.name} - - 1 9 ; {scheme}://{other.name}")

    def copy(seed: str) -> Output:
        return client.run(["nix-build", "/root/copy.nix", "--argstr", "seed", seed, "-j0", "--no-out-link"])

    # A machine that has failed is left alone until the end.
    with altered(client, "hook.errors", LATER_S=EVER_S):
        about = [line for line in copy("first").stderr.splitlines() if f"'{scheme}://{full.name}'" in line]
    assert any(is_disk_full(line) for line in about), about
    if not client.standalone:
        assert full.name not in copy("second").stderr
    is_clean(client, other)
