"""What tests use that choose their hosts themselves instead of running on every release."""

from collections.abc import Callable, Iterator

import pytest

from tests.lab import roots
from tests.lab.advised import VISITOR, serve
from tests.lab.host import Host
from tests.lab.install import HOOK
from tests.lab.lab import Lab
from tests.lab.ownssh import ENDS, Site


@pytest.fixture
def fresh(lab: Lab) -> Iterator[Callable[[Host], Host]]:
    """A function that empties a host of the lab; after the test none of its processes may be left."""
    taken: list[Host] = []

    def take(host: Host) -> Host:
        host.reset()
        taken.append(host)
        return host

    yield take
    for host in taken:
        host.stop_daemon()
        lab.stop_brokers()
        host.wait_idle()


@pytest.fixture(params=ENDS, ids=[f"client-{roots.label(suite)}" for suite in ENDS])
def site(request: pytest.FixtureRequest, lab: Lab, fresh: Callable[[Host], Host]) -> Site:
    """A client whose ssh knows nothing yet, and a builder."""
    return Site(fresh(lab.client(request.param)), fresh(lab.builder(roots.SUITES[0])))


@pytest.fixture
def toor(site: Site) -> str:
    """Another login name of the builder's root: no other user may build there."""
    passwd = site.builder.read_file("/etc/passwd")
    if "toor:" not in passwd:
        site.builder.write_file("/etc/passwd", passwd + "toor:x:0:0::/root:/bin/bash\n")
    return "toor"


@pytest.fixture
def box(client: Host, twin: Host) -> Iterator[Host]:
    """A machine that root of the client may log in to, as root and as `visitor`."""
    twin.run(["nix-store", "--init"])
    twin.add_user(VISITOR)
    twin.start_daemon()
    serve(client, twin)
    client.configure(hook=HOOK)
    client.start_daemon()
    client.run(["nix-store", "--init"])
    yield twin
    twin.run(["usermod", "-s", "/bin/sh", "-G", "", VISITOR])
    twin.stop_sshd()
    twin.start_sshd()
