"""Hosts keep to themselves and leave nothing behind."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import roots
from tests.lab.host import CommandError, Host, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]

OWNER = """
import sys
from tests.lab.host import Host

host = Host("orphan", sys.argv[1])
host.start()
host.start_sshd()
host.start_daemon()
print(*host.processes(servers=True), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda end: end.name)
def test_a_host_ends_with_its_owner(end: signal.Signals) -> None:
    """However the owner dies, its hosts' processes and mounts go."""
    lower = str(roots.root(roots.SUITES[0]))
    command = [sys.executable, "-c", OWNER, lower]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as owner:
        assert owner.stdout is not None
        # Its first process, sshd and nix-daemon; what these start for a moment may have ended since.
        told = [Path("/proc", pid) for pid in owner.stdout.readline().split()]
        processes = [process for process in told if process.exists()]
        assert len(processes) >= 3
        owner.send_signal(end)
        owner.wait()
        wait_until(lambda: not any(process.exists() for process in processes), "end of the host")
    assert lower not in Path("/proc/self/mounts").read_text()


def test_nothing_written_in_a_host_reaches_its_root() -> None:
    lower = roots.root(roots.SUITES[0])
    with Host("writer", lower) as host:
        for inside in ("/etc/written", "/nix/written", "/root/written", "/mnt/written"):
            host.write_file(inside, "here\n")
            assert host.run(["cat", inside]).stdout == "here\n"
            assert not (lower / inside.lstrip("/")).exists()
        assert host.run(["uname", "-n"]).stdout == "writer\n"
    assert list((lower / "mnt").iterdir()) == []


def test_a_host_on_this_machines_root_sees_neither_its_store_nor_its_home() -> None:
    """The demo's hosts: programs of the machine, nothing of its user."""
    with Host("guest", "/") as host:
        assert host.run(["ls", "-A", "/root", "/nix", "/tmp"]).stdout == "/nix:\n\n/root:\n\n/tmp:\n"
        host.write_file("/etc/nix/machines", "mine\n")
        assert host.run(["ls", "/etc/nix"]).stdout == "machines\nnix.conf\n"


def test_a_command_that_takes_too_long_is_ended_with_its_children() -> None:
    with Host("patient", roots.root(roots.SUITES[0])) as host:
        with pytest.raises(subprocess.TimeoutExpired):
            host.run(["sh", "-c", "sleep 1000 & sleep 1000"], timeout=0.2)
        host.wait_idle()


def test_an_unexpected_status_shows_the_command_and_what_it_said() -> None:
    with Host("failing", roots.root(roots.SUITES[0])) as host:
        with pytest.raises(CommandError, match=r"failing\$ sh -c .*\nexit status 7\nsaid this\n"):
            host.run(["sh", "-c", "echo said this >&2; exit 7"])
        assert host.run(["sh", "-c", "exit 7"], check=False).returncode == 7


def test_a_store_is_empty_after_a_reset() -> None:
    with Host("fresh", roots.root(roots.SUITES[0])) as host:
        host.write_file("/root/file", "content\n")
        host.start_daemon()
        path = host.run(["nix-store", "--add", "/root/file"]).stdout.strip()
        assert host.path(path).exists()
        host.reset_store()
        assert not host.path(path).exists()
        assert host.run(["nix-store", "--query", "--hash", path], check=False).returncode != 0
