"""Eight builds at once on a machine far away that nobody is connected to yet: one ssh connection for all, or one each.

As in test_storm.py, with 50 ms there and back; ControlMaster in the user's ssh_config keeps nix-ferry from sharing, and
without a ControlPath ssh does not share either.
"""

import pytest

from bench.conftest import Compare
from bench.test_storm import storm
from tests.lab import install
from tests.lab.host import Host

BUILDS = 8


@pytest.fixture
def apart(hosts: tuple[Host, Host], far: str) -> str:
    """Another name of the machine, with the user's own ControlMaster."""
    client, _ = hosts
    known = client.read_file(f"/root/.ssh/hosts/{far}").replace(f"Host {far}", "Host apart")
    client.write_file("/root/.ssh/hosts/apart", f"{known}  ControlMaster auto\n", 0o600)
    return "apart"


def test_sharing(hosts: tuple[Host, Host], far: str, apart: str, compare: Compare) -> None:
    client, _ = hosts

    def build(name: str) -> None:
        client.stop_broker()
        client.configure(builders=f"ssh-ng://{name} - - 8")
        storm(client, install.HOOK, BUILDS)

    compare("sharing-50ms", {"one each": lambda: build(apart), "one for all": lambda: build(far)}, 9)
