"""What tests use that choose their hosts themselves instead of running on every release."""

from collections.abc import Callable, Iterator

import pytest

from tests.lab.host import Host
from tests.lab.lab import Lab


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
