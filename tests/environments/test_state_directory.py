"""A state directory that is of no use to nix-ferry: stock keeps nothing there, so builds go on all the same."""

import base64
from collections.abc import Callable, Iterator

import pytest

from tests.lab import roots
from tests.lab.host import HOST_KEY, Host
from tests.lab.install import HOOK
from tests.lab.lab import Lab
from tests.lab.offload import nix_build

pytestmark = pytest.mark.lab

OURS = "/nix/var/nix/nix-ferry"
FILL = f"cat /dev/zero > {OURS}/filler; i=0; while touch {OURS}/$i; do i=$((i + 1)); done"
TOO_BAD = {"full": "mode=0700,size=16k,nr_inodes=16", "read-only": "mode=0700,ro"}
"""Options of mount."""


@pytest.fixture
def here(lab: Lab, fresh: Callable[[Host], Host], there: Host) -> Host:
    """It builds there, by a host key that is pinned."""
    client = fresh(lab.client(roots.SUITES[-1]))
    client.trust(there)
    client.run(["sh", "-c", "rm /root/.ssh/known_hosts.*"])
    key = base64.b64encode(there.read_file(f"{HOST_KEY}.pub").encode()).decode()
    client.configure(hook=HOOK, builders=f"ssh-ng://{there.name} - - 2 - - - {key}")
    client.run(["nix-store", "--init"])
    client.run(["mkdir", "-p", "-m", "700", OURS])
    return client


@pytest.fixture(params=TOO_BAD)
def spoilt(here: Host, request: pytest.FixtureRequest) -> Iterator[Host]:
    here.run(["mount", "-t", "tmpfs", "-o", TOO_BAD[request.param], "ours", OURS])
    here.run(["sh", "-c", FILL], check=False)
    yield here
    here.stop_broker()
    here.wait_idle()
    here.run(["umount", OURS])


def test_a_machine_whose_key_is_pinned_stays_usable(spoilt: Host) -> None:
    for seed in ("first", "second"):
        done = spoilt.run(nix_build("from-source", seed=seed), check=False)
        assert done.returncode == 0, done.stderr


def test_root_builds_in_the_store_of_a_user(here: Host) -> None:
    """What that user could change is not believed; there is no need for it either."""
    here.add_user("alice")
    here.run(["chown", "-R", "alice", "/nix"])
    done = here.run(nix_build("from-source", seed="root"), check=False)
    assert done.returncode == 0, done.stderr
    assert here.run(["ls", OURS]).stdout == ""
