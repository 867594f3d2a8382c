"""What is remembered of a machine's store, here and there, between two builds over one connection.

A daemon spares what was brought to it or built by it as long as the connection lasts, but not what it merely said to be
there; and it remembers what was not there.
"""

import re
from collections.abc import Iterator

import pytest

from tests.lab.host import Host, wait_until
from tests.lab.install import HOOK, lasting
from tests.lab.midway import WARM
from tests.lab.offload import nix_build

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


@pytest.fixture(autouse=True)
def _lasting(client: Host) -> Iterator[None]:
    with lasting(client):
        yield


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
def test_an_input_that_the_machine_has_deleted_is_brought_again(client: Host, twin: Host, scheme: str) -> None:
    """The second build is told to a machine that was known to have its input, and has not any more."""
    client.trust(twin)
    client.configure(hook=HOOK, builders=f"{scheme}://{twin.name}")
    client.write_file("/root/build.nix", BUILD)
    source = twin.run(["nix-instantiate", "--eval", "--read-write-mode", "--expr", SOURCE]).stdout.strip().strip('"')
    command = ["nix-build", "/root/build.nix", "-j0", "--no-out-link", "--argstr", "name"]
    client.run([*command, "first"])
    if client.standalone:
        twin.wait_idle()
    deleted = twin.run(["nix-store", "--delete", source], check=False).returncode == 0
    # Over ssh what is asked about is spared, too, if the connection lasts.
    assert deleted == (client.standalone or scheme == "ssh-ng")
    result = client.run([*command, "second"])
    assert client.read_file(result.stdout.strip()) == "read by both\n"
    assert twin.path(source).exists()
    assert "error" not in result.stderr
    assert "warning" not in result.stderr


def warm(machine: Host) -> int:
    """How many daemons serve somebody there, at work or not."""
    served = [command for command in machine.processes().values() if re.fullmatch(WARM, command)]
    return sum("nix-" in command for command in served)


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
def test_a_daemon_that_knows_of_an_output_that_it_was_not_there_is_not_asked_again(
    client: Host, twin: Host, scheme: str
) -> None:
    """For an hour it would not believe what another one has built since, and could replace it."""
    client.trust(twin)
    client.configure(hook=HOOK, builders=f"{scheme}://{twin.name}")
    client.run(nix_build("from-source", seed="warm"))
    left = 0 if client.standalone else 1
    wait_until(lambda: warm(twin) == left, f"{left} connections")
    assert client.run(nix_build("failing", seed="warm"), check=False).returncode != 0
    wait_until(lambda: warm(twin) == 0, "the end of the connection")
