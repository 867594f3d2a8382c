"""Fixtures of hosts that tests choose themselves."""

from collections.abc import Callable, Iterator

import pytest

from tests.lab import roots
from tests.lab.booted import Booted
from tests.lab.conftest import fresh
from tests.lab.container import GUARD_S
from tests.lab.host import Host
from tests.lab.install import altered
from tests.lab.lab import Lab

__all__ = ["fresh"]


@pytest.fixture
def there(lab: Lab, fresh: Callable[[Host], Host]) -> Host:
    """A machine to build on."""
    return fresh(lab.builder(roots.SUITES[-1]))


@pytest.fixture(scope="session")
def machine(lab: Lab) -> Iterator[Booted]:
    """One that systemd has booted."""
    with (
        Booted("booted", roots.root(roots.BOOTED), lab.tree()) as host,
        # Without an answer a broker would do without a unit.
        altered(host, "hook.broker.unit", START_S=GUARD_S, SCOPE_S=GUARD_S),
    ):
        yield host


@pytest.fixture
def booted(machine: Booted, there: Host) -> Iterator[Booted]:
    """The same, which builds there and has no broker yet."""
    machine.reset_store()
    machine.use(there)
    yield machine
    machine.tidy()
