"""install and uninstall with real Nix: from the one to the other, builds go through our hook."""

import configparser
import shlex
from collections.abc import Iterator

import pytest

from tests.lab.host import Host
from tests.lab.install import OUTSIDE
from tests.lab.offload import connect, nix_build, plain
from tests.lab.test_command import ferry

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]

UNIT_DIRECTORY = "/etc/systemd/system/nix-daemon.service.d"
CONF = "/etc/nix/nix.conf"


@pytest.fixture(autouse=True)
def outside(client: Host) -> Iterator[None]:
    """What lies outside of directories that every test begins with."""
    yield
    client.run(["rm", "-rf", OUTSIDE])


@pytest.fixture
def systemd(client: Host) -> Iterator[None]:
    """What tells nix-ferry that systemd starts the daemon; it does nothing that it is told."""
    client.write_file("/usr/local/bin/systemctl", "#!/bin/sh\n", 0o755)
    client.run(["mkdir", "-p", "/run/systemd/system"])
    yield
    client.run(["rm", "-r", "/run/systemd", "/usr/local/bin/systemctl"])


def restart_daemon(client: Host) -> None:
    """As systemd would, with the environment that drop-ins of its unit add."""
    environ = {}
    for path in client.path(UNIT_DIRECTORY).glob("*.conf"):
        unit = configparser.RawConfigParser()
        unit.read(path)
        (word,) = shlex.split(unit["Service"]["Environment"])
        name, _, environ[name] = word.partition("=")
    client.stop_daemon()
    client.start_daemon(environ)


def builds_through_ferry(client: Host, builder: Host, seed: str) -> bool:
    """Whether a build, which has to be done on `builder`, got there through our hook: stock's gives no reasons."""
    client.run(["nix-store", "--init"])
    built = client.run([*nix_build("from-source", seed=seed), "-v"]).stderr
    assert f"on '{plain(builder)}'" in built
    return ".drv': chosen: " in built


@pytest.mark.usefixtures("systemd")
def test_a_daemon_runs_the_hook_from_install_to_uninstall(client: Host, twin: Host) -> None:
    """Nix 2.26 has it from the unit, others from nix.conf; both are as before in the end."""
    twin.run(["nix-store", "--init"])
    connect(client, twin, None)
    before = client.read_file(CONF)
    restart_daemon(client)
    assert not builds_through_ferry(client, twin, "before")
    ferry(client, "install", "--yes")
    ignored = client.nix_release()[:2] == (2, 26)
    assert (client.read_file(CONF) == before, client.path(UNIT_DIRECTORY).exists()) == (ignored, ignored)
    assert "nothing to change" in ferry(client, "install", "--yes").stdout
    restart_daemon(client)
    assert builds_through_ferry(client, twin, "installed")
    assert "stays, since the daemon runs it" in ferry(client, "uninstall", "--yes").stdout
    assert (client.read_file(CONF), client.path(UNIT_DIRECTORY).exists()) == (before, False)
    assert builds_through_ferry(client, twin, "not-restarted")
    restart_daemon(client)
    assert not builds_through_ferry(client, twin, "uninstalled")
    ferry(client, "uninstall", "--yes")
    assert not client.path(OUTSIDE).exists()


def test_a_daemon_without_systemd_runs_the_hook(client: Host, twin: Host) -> None:
    """Nix 2.26 then has it from root's own configuration; a restart is for the user to do."""
    twin.run(["nix-store", "--init"])
    connect(client, twin, None)
    client.start_daemon()
    assert "restart the Nix daemon" in ferry(client, "install", "--yes").stdout
    restart_daemon(client)
    assert builds_through_ferry(client, twin, "without-systemd")


def test_without_a_daemon_the_next_command_runs_the_hook(client: Host, twin: Host) -> None:
    """Root's own, which does not say that there is one."""
    twin.run(["nix-store", "--init"])
    connect(client, twin, None)
    client.run(["rm", "-rf", "/nix/var/nix/daemon-socket"])
    assert "daemon" not in ferry(client, "install", "--yes").stdout
    assert builds_through_ferry(client, twin, "single-user")


def test_who_is_not_root_cannot_change_the_daemon(client: Host) -> None:
    """One line, with what was to be written above it."""
    client.add_user("alice")
    client.start_daemon()
    before = client.read_file(CONF)
    done = ferry(client, "install", "--yes", user="alice", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write '")
    assert done.stderr.endswith("run this as root\n")
    assert (len(done.stderr.splitlines()), client.read_file(CONF)) == (1, before)
