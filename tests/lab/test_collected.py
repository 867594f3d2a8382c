"""A machine that collects its garbage between two builds over one connection: nobody notices.

Its daemon spares what was brought to it or built by it as long as the connection lasts, but not what it merely said to
be there.
"""

import pytest

from tests.lab.host import Host
from tests.lab.install import HOOK

pytestmark = pytest.mark.lab

SOURCE = 'builtins.toFile "source" "read by both"'
BUILD = f"""
{{ name }}: derivation {{
  inherit name;
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "read -r line < ${{{SOURCE}}}; echo $line > $out" ];
}}
"""


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
def test_an_input_that_the_machine_has_deleted_is_brought_again(client: Host, twin: Host, scheme: str) -> None:
    """The second build is told to a machine that was known to have its input, and has not any more."""
    client.trust(twin)
    client.configure(hook=HOOK, builders=f"{scheme}://{twin.name}")
    client.write_file("/root/build.nix", BUILD)
    source = twin.run(["nix-instantiate", "--eval", "--read-write-mode", "--expr", SOURCE]).stdout.strip().strip('"')
    command = ["nix-build", "/root/build.nix", "-j0", "--no-out-link", "--argstr", "name"]
    client.run([*command, "first"])
    deleted = twin.run(["nix-store", "--delete", source], check=False).returncode == 0
    # Over ssh what is asked about is spared, too.
    assert deleted == (scheme == "ssh-ng")
    result = client.run([*command, "second"])
    assert client.read_file(result.stdout.strip()) == "read by both\n"
    assert twin.path(source).exists()
    assert "error" not in result.stderr
    assert "warning" not in result.stderr
