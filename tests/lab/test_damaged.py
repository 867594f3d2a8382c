"""An input that is not any more what the database says: found by the machine that receives it, told by us.

On each release, since it is their daemons that refuse it; what is asked of ours is in tests/session/test_ahead.py.
"""

import pytest

from tests.lab.host import Host
from tests.lab.install import HOOK
from tests.lab.offload import nix_build

pytestmark = pytest.mark.lab

SOURCE = 'builtins.toFile "source" "before"'
BUILD = f"""
derivation {{
  name = "reader";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "read -r line < ${{{SOURCE}}}; echo $line > $out" ];
}}
"""


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
@pytest.mark.parametrize("content", ["behind", "something else"])
def test_a_damaged_input_ends_the_build_and_no_machine_is_blamed(
    client: Host, twin: Host, scheme: str, content: str
) -> None:
    """Whether its size is the same or not; one line says what helps, and nothing of it is there afterwards."""
    client.trust(twin)
    client.configure(hook=HOOK, builders=f"{scheme}://{twin.name}")
    client.write_file("/root/build.nix", BUILD)
    evaluate = ["nix-instantiate", "--eval", "--read-write-mode", "--expr", SOURCE]
    source = client.run(evaluate).stdout.strip().strip('"')
    client.path(source).chmod(0o644)
    client.path(source).write_text(content)
    failed = client.run(["nix-build", "/root/build.nix", "-j0", "--no-out-link"], check=False)
    assert failed.returncode != 0
    (line,) = [line for line in failed.stderr.splitlines() if "was modified" in line]
    assert f"failed: path '{source}' was modified; see 'nix-store --verify --check-contents --repair'" in line
    assert "was lost" not in failed.stderr
    assert twin.run(["nix-store", "--check-validity", source], check=False).returncode != 0
    after = client.run(nix_build("from-source", seed="after"))
    assert "warning" not in after.stderr
    assert "error" not in after.stderr
