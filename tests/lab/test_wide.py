"""What only sheer size could break, end to end: unit tests go to the limits themselves."""

from collections.abc import Callable

import pytest

from tests.lab import roots
from tests.lab.host import Host
from tests.lab.install import HOOK
from tests.lab.lab import Lab
from tests.lab.midway import is_clean

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]

ENTRIES = 100_000
WIDE = """
derivation {
  name = "wide";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-euc" ''
    PATH=/usr/bin:/bin
    mkdir $out
    cd $out
    seq -f %06.0f ENTRIES | xargs touch
    ln -s 000001 link
  '' ];
}
"""


@pytest.mark.parametrize("prefix", ["ssh-ng://", "ssh://"])
def test_a_directory_of_100_000_entries_comes_back_whole(lab: Lab, fresh: Callable[[Host], Host], prefix: str) -> None:
    client, builder = fresh(lab.client(roots.SUITES[-1])), fresh(lab.builder(roots.SUITES[-1]))
    client.trust(builder)
    client.configure(hook=HOOK, builders=f"{prefix}{builder.name}")
    client.write_file("/root/wide.nix", WIDE.replace("ENTRIES", str(ENTRIES)))
    out = client.run(["nix-build", "/root/wide.nix", "-j0", "--no-out-link"]).stdout.strip()
    assert sum(1 for _ in client.path(out).iterdir()) == ENTRIES + 1
    is_clean(client, builder)
