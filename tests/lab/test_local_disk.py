"""A full disk here: the machine is not to blame, and nothing of the output counts as there."""

from collections.abc import Iterator

import pytest

from tests.lab.host import Host
from tests.lab.install import HOOK
from tests.lab.lab import Lab
from tests.lab.midway import is_clean
from tests.lab.offload import nix_build

pytestmark = pytest.mark.lab

ROOM = "13m"
"""Of these Nix keeps 8 MiB in reserve; the output has 6.6."""


@pytest.fixture
def small(lab: Lab, client: Host) -> Iterator[Host]:
    """A client with little room for its store."""
    client.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "small", "/nix"])
    yield client
    client.stop_daemon()
    lab.stop_brokers()
    client.wait_idle()
    client.run(["umount", "/nix"])


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
def test_an_output_that_does_not_fit_is_one_clear_error(small: Host, twin: Host, scheme: str) -> None:
    """No other machine could help; when there is room, nothing left behind is in the way."""
    small.trust(twin)
    small.configure(hook=HOOK, builders=f"{scheme}://{twin.name}")
    small.start_daemon()
    command = nix_build("big", seed="disk", graph="unusual")
    failed = small.run(command, check=False)
    assert failed.returncode != 0
    # Nix may add that it cannot write the end of the log either.
    (line,) = (line for line in failed.stderr.splitlines() if line.startswith("error: build of '/nix/store/"))
    assert "failed: cannot import '/nix/store/" in line
    assert "No space left on device" in line
    small.stop_broker()
    small.run(["mount", "-o", "remount,size=64m", "/nix"])
    assert small.run(command).stdout.strip()
    is_clean(small, twin)
