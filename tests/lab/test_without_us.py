"""Python, the installation, the broker or the interpreter is taken away: the stock hook builds, with -j0 and with -j1.

The hook lies outside of the installation, as `nix-ferry install` puts it.  With real Nix; every byte at which somebody
can be killed is in tests/broker/test_shim_answers.py.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab.host import Host, wait_until
from tests.lab.install import HOOK, OUTSIDE, PREFIX, file_of
from tests.lab.midway import BROKER, is_clean, kill, running
from tests.lab.offload import connect, nix_build

pytestmark = pytest.mark.lab

STANDALONE = r"\S+ \S*nix-ferry-standalone"
HELD_NIX = "/usr/local/bin/held-nix-daemon"
HOLD, ASKED = "/run/hold", "/run/asked"
HELD = f"""#!/bin/sh
touch {ASKED}
while [ -e {HOLD} ]; do sleep 0.01; done
exec nix-daemon "$@"
"""
"""On a machine: does not say a word while it is held."""


@pytest.fixture
def hook(client: Host) -> Iterator[str]:
    """The hook of this host."""
    client.run(["mkdir", "-p", OUTSIDE])
    client.run(["cp", HOOK, OUTSIDE])
    client.run(["ln", "-sfn", f"{PREFIX}/bin", f"{OUTSIDE}/programs"])
    yield f"{OUTSIDE}/nix-ferry-hook"
    client.run(["rm", "-r", OUTSIDE])


@contextmanager
def taken_away(client: Host, what: str) -> Iterator[None]:
    """Something is missing or broken meanwhile."""
    path = {"python": "/usr/bin/python3", "installation": PREFIX}.get(what) or file_of(what)
    client.run(["mv", path, f"{path}.away"])
    if what.startswith("hook."):
        client.write_file(path, "1 +\n")
    try:
        yield
    finally:
        client.run(["rm", "-f", path])
        client.run(["mv", f"{path}.away", path])


def jobs(command: list[str], number: int) -> list[str]:
    """The same with so many builds at once on the client itself."""
    return [f"-j{number}" if word == "-j0" else word for word in command]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("what", ["python", "installation", "hook.session.session", "hook.session.build"])
def test_the_stock_hook_builds_what_we_cannot(client: Host, twin: Host, hook: str, what: str, number: int) -> None:
    """Also what only another machine has the feature for; who asks is told in a line."""
    connect(client, twin, hook)
    command = jobs(nix_build("featured", "from-source", seed=f"{what}{number}", options=["-v"]), number)
    with taken_away(client, what):
        done = client.run(command)
    featured, from_source = done.stdout.split()
    assert client.read_file(featured) == f"{twin.name}\n"
    assert client.path(f"{from_source}/greeting").exists()
    lines = re.findall(r"^handing .*(?:does not work|cannot be run|installed as a whole.*)$", done.stderr, re.MULTILINE)
    assert lines
    assert "error:" not in done.stderr
    is_clean(client, twin)


@pytest.mark.parametrize("number", [0, 1])
def test_the_stock_hook_answers_when_ours_is_killed_before(client: Host, twin: Host, hook: str, number: int) -> None:
    """In the middle of connecting to a machine; the question has been read by then."""
    twin.write_file(HELD_NIX, HELD, 0o755)
    twin.path(HOLD).touch()
    twin.path(ASKED).unlink(missing_ok=True)
    client.trust(twin)
    machine = f"ssh-ng://{twin.name}?remote-program={HELD_NIX}"
    client.configure(hook=hook, builders=f"{machine} - - 1 1 big-parallel")
    try:
        with running(client, jobs(nix_build("featured", seed=f"killed{number}"), number)) as build:
            wait_until(twin.path(ASKED).exists, "a connection")
            kill(client, STANDALONE if client.standalone else BROKER)
            twin.path(HOLD).unlink()
            out, stderr = build.communicate(timeout=60)
    finally:
        twin.path(HOLD).unlink(missing_ok=True)
    assert build.returncode == 0, stderr
    assert client.read_file(out.strip()) == f"{twin.name}\n"
    name = "nix-ferry-standalone" if client.standalone else "the broker"
    assert stderr.count(f"nix-ferry: {name} ended before its answer; the stock build hook answers instead") == 1
    is_clean(client, twin)
