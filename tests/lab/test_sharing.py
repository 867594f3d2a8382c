"""Users who have switched to nix-ferry and users who have not, on one client and one machine."""

import pytest

from tests.lab.host import Host
from tests.lab.offload import nix_build

pytestmark = pytest.mark.lab


def test_stock_and_ours_together_keep_within_a_machines_max_jobs(client: Host, twin: Host, hook: str | None) -> None:
    """Both count the same slots; the machine is used fully, and never more than that."""
    client.trust(twin)
    client.configure(builders=f"ssh-ng://{twin.name} - - 2", build_poll_interval="1")
    ours = {"NIX_CONFIG": f"build-hook = {hook}"} if hook else {}
    builds = [client.popen(nix_build("crowd", seed=f"crowd-{n}"), env=env) for n, env in enumerate([{}, ours])]
    outputs = []
    for build in builds:
        stdout, stderr = build.communicate(timeout=60)
        assert build.returncode == 0, stderr
        outputs += stdout.split()
    running = [int(client.read_file(path)) for path in outputs]
    assert len(running) == 6
    assert max(running) == 2
