"""Fixtures of hosts that tests choose themselves."""

from collections.abc import Callable, Iterator

import pytest

from tests.lab import roots
from tests.lab.booted import Booted
from tests.lab.conftest import fresh
from tests.lab.host import Host
from tests.lab.lab import Lab

__all__ = ["fresh"]


@pytest.fixture
def there(lab: Lab, fresh: Callable[[Host], Host]) -> Host:
    """A machine to build on."""
    return fresh(lab.builder(roots.SUITES[-1]))


@pytest.fixture
def booted(lab: Lab, there: Host) -> Iterator[Booted]:
    """A host that systemd has booted, and that builds there."""
    with Booted("booted", roots.root(roots.BOOTED), lab.tree()) as host:
        host.use(there)
        yield host
