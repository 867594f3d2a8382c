"""A dead machine that looks best: what it costs the builds that another machine could do.

Two hosts with Nix 2.34 and a real sshd between them.  The dead machine comes first and has the highest speed factor;
what is sent to it is dropped.  Stock asks it for every build, so it gets fewer.
"""

import subprocess
from collections.abc import Iterator

import pytest

from bench.conftest import Compare
from bench.test_storm import storm
from tests.lab import install
from tests.lab.host import Host

BUILDS = 40
BUILDS_OF_STOCK = 4
CONNECT_TIMEOUT_S = 5
NO_ANSWER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0), backlog=0)
waiting = [socket.socket() for _ in range(8)]
for each in waiting:
    each.setblocking(False)
    each.connect_ex(listener.getsockname())
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""
"""A port whose queue is full: the kernel drops what comes, as a firewall does."""


@pytest.fixture
def dead(hosts: tuple[Host, Host]) -> Iterator[str]:
    """The name of a machine that does not answer."""
    client, _ = hosts
    with client.popen(["python3", "-c", NO_ANSWER], stdin=subprocess.PIPE) as child:
        assert child.stdout is not None
        port = child.stdout.readline()
        client.write_file("/root/.ssh/hosts/dead", f"Host dead\n  HostName 127.0.0.1\n  Port {port}", 0o600)
        yield "dead"
        client.end(child)


def test_dead_machine(hosts: tuple[Host, Host], dead: str, compare: Compare) -> None:
    client, builder = hosts
    alive = f"ssh-ng://{builder.name} - - 8"
    both = f"ssh-ng://{dead} - - 8 9 ; {alive}"

    def build(machines: str, hook: str | None, builds: int) -> None:
        client.stop_broker()
        client.configure(builders=machines)
        # Stock waits for as long as TCP does, two minutes; with this it waits as we do.
        environ = {"NIX_SSHOPTS": f"-oConnectTimeout={CONNECT_TIMEOUT_S}"}
        storm(client, hook, builds, environ=environ)

    compare(
        "dead-machine",
        {
            f"stock, {BUILDS_OF_STOCK} builds": lambda: build(both, None, BUILDS_OF_STOCK),
            "without it": lambda: build(alive, install.HOOK, BUILDS),
            "nix-ferry": lambda: build(both, install.HOOK, BUILDS),
        },
        3,
    )
