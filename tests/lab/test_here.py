"""Machines on the client itself: other stores, whose builds end with whoever asked for them; and its own store.

A build in its own store would wait for ever for the locks of the Nix that asked for it.
"""

import re
import signal
from collections.abc import Iterator

import pytest

from tests.lab.gates import DIRECTORY, Gates, build_gated
from tests.lab.host import SOCKET, Host
from tests.lab.install import HOOK
from tests.lab.midway import HOOK_PROCESS, is_clean, kill, running
from tests.lab.offload import nix_build

pytestmark = pytest.mark.lab

ELSEWHERE = "/root/elsewhere"
ITSELF = (
    *("auto", "local", "local?root=/", "/", "/srv/mounted"),
    *("daemon", f"unix://{SOCKET}", "unix:///srv/socket"),
    *("ssh-ng://localhost", "ssh://localhost", "ssh-ng://localhost?remote-store=daemon"),
    "ssh://localhost?remote-store=local%3Froot%3D/srv/mounted",
    *("ssh-ng://oneself", "ssh://oneself"),
)
REFUSED = (
    r"cannot build on '(\S+)': it is this very store: the build would wait for the locks that Nix holds for it; "
    r"remove it from `builders`$"
)


@pytest.fixture
def findable(client: Host) -> Iterator[Host]:
    """The client, which leads to itself in more than one way: a mount, a symlink, its own sshd."""
    client.start_daemon()
    client.run(["mkdir", "-p", "/srv/mounted/nix"])
    client.run(["mount", "--bind", "/nix", "/srv/mounted/nix"])
    client.run(["ln", "-sf", SOCKET, "/srv/socket"])
    client.start_sshd()
    client.trust(client, "oneself")
    yield client
    client.stop_sshd()
    client.run(["umount", "/srv/mounted/nix"])


def test_the_own_store_is_left_out_with_one_line_whatever_it_is_called(findable: Host, twin: Host) -> None:
    """Then the host builds itself, or another machine does."""
    findable.configure(hook=HOOK, builders=" ; ".join(ITSELF))
    result = findable.run(nix_build("from-source", seed="own", options=["-j1"]), timeout=30)
    refused = re.findall(REFUSED, result.stderr, re.MULTILINE)
    assert len(refused) == len(set(refused)) == len(ITSELF), result.stderr
    assert findable.read_file(f"{result.stdout.strip()}/greeting") == "hello, own\n"
    findable.trust(twin)
    findable.configure(hook=HOOK, builders=f"local - - 1 9 ; ssh-ng://{twin.name} - - 1 1 big-parallel")
    result = findable.run(nix_build("featured", seed="own"), timeout=30)
    assert findable.read_file(result.stdout.strip()) == f"{twin.name}\n"


@pytest.mark.parametrize(
    ("victim", "number"),
    [("nix-build", signal.SIGINT), (HOOK_PROCESS, signal.SIGKILL)],
    ids=["interrupt", "hook-killed"],
)
def test_a_build_in_another_store_here_ends_with_who_asked_for_it(
    client: Host, victim: str, number: signal.Signals
) -> None:
    """No process is left, and the same build can be done again."""
    client.run(["mkdir", "-p", DIRECTORY])
    client.configure(hook=HOOK, builders=ELSEWHERE, sandbox_paths=f"/bin /lib /lib64 /usr {DIRECTORY}")
    gates = Gates(client)
    with running(client, build_gated("a", seed="here")) as build:
        gates.wait_for("+ a")
        kill(client, victim, number)
        build.communicate(timeout=30)
    assert build.returncode != 0
    is_clean(client)
    gates.leave_open("a")
    assert client.read_file(client.run(build_gated("a", seed="here")).stdout.strip()) == "done\n"
    is_clean(client)


def test_no_setting_is_on_the_command_line_of_such_a_store(client: Host) -> None:
    """Everybody on this host can read it, and access tokens are settings."""
    client.run(["mkdir", "-p", DIRECTORY])
    tokens = "example.org=lab-token"
    client.configure(
        hook=HOOK, builders=ELSEWHERE, sandbox_paths=f"/bin /lib /lib64 /usr {DIRECTORY}", access_tokens=tokens
    )
    gates = Gates(client)
    odd = ["-j0", "--option", "post-build-hook", "lab  #token"]
    with running(client, build_gated("a", seed="secret", options=odd)) as build:
        gates.wait_for("+ a")
        shown = client.run(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'"]).stdout.splitlines()
        assert "--stdio" in shown
        assert [word for word in shown if "lab-token" in word] == []
        assert shown.count(odd[-1]) == 1, "only where the user wrote it"
        kill(client, "nix-build", signal.SIGINT)
        build.communicate(timeout=30)
    is_clean(client)
