"""Which broker serves whom when more than one is started: at the same moment, or by hooks of two builds.

With real Nix; how one makes room for another is in tests/broker/test_server.py.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.lab import roots
from tests.lab.gates import Gates, build_gated
from tests.lab.host import Host, wait_until
from tests.lab.install import HOOK, PREFIX
from tests.lab.lab import Lab
from tests.lab.midway import is_clean, running

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]

SLOTS = 8
CLIENTS = 3
UPGRADED = "/opt/upgraded"
IDENTITY = "0.0.0-another"
"""Of a build with whatever version."""

BROKER = f"{PREFIX}/bin/nix-ferry-broker"
STARTED = "/run/brokers-started"
AT_ONCE = f"""\
#!/bin/sh
echo "$$" >> {STARTED}
while [ "$(wc -l < {STARTED})" -lt {CLIENTS} ]; do sleep 0.01; done
exec {BROKER}.real "$@"
"""
"""In the place of the broker: becomes it when there is one for each client."""


@pytest.fixture
def there(lab: Lab, fresh: Callable[[Host], Host]) -> Host:
    return fresh(lab.builder(roots.SUITES[-1]))


@pytest.fixture
def here(lab: Lab, fresh: Callable[[Host], Host], there: Host) -> Host:
    """It builds there."""
    # A hook without a broker has nothing to do with any of this.
    lab.standalone(False)
    made = fresh(lab.client(roots.SUITES[-1]))
    made.trust(there)
    made.configure(hook=HOOK, builders=f"ssh-ng://{there.name} - - {SLOTS}")
    made.run(["nix-store", "--init"])
    return made


@pytest.fixture
def upgraded(here: Host) -> Iterator[str]:
    """The hook of another build, which is installed beside ours."""
    tree = here.path(UPGRADED)
    shutil.copytree(here.path(PREFIX), tree)
    identity = tree / "share/nix-ferry/identity"
    assert identity.read_text() != IDENTITY
    identity.write_text(IDENTITY)
    script = tree / "bin/nix-ferry-broker"
    script.write_text(script.read_text().replace(PREFIX, UPGRADED))
    yield f"{UPGRADED}/bin/nix-ferry-hook"
    shutil.rmtree(tree)


@pytest.fixture
def at_once(here: Host) -> Iterator[None]:
    """Brokers begin together."""
    program = here.path(BROKER)
    program.rename(here.path(f"{BROKER}.real"))
    here.write_file(BROKER, AT_ONCE, 0o755)
    here.path(STARTED).touch()
    yield
    here.path(f"{BROKER}.real").rename(program)
    here.path(STARTED).unlink()


def count(here: Host, program: str) -> int:
    """Return how many processes run `program`, a pattern."""
    return sum(bool(re.match(rf"\S+ {program}", command)) for command in here.processes().values())


def brokers(here: Host, prefix: str) -> int:
    """Return how many brokers are there."""
    return count(here, rf"{prefix}\S*/nix-ferry-broker")


def test_hooks_of_another_build_arrive_in_the_middle(here: Host, there: Host, upgraded: str) -> None:
    """Each build ends where it began; one that comes late, of the old build, is served as well."""
    gates = Gates(there)
    with ExitStack() as builds:
        old = builds.enter_context(running(here, build_gated("a", "b", seed="old")))
        gates.wait_inside(2)
        here.hook = upgraded
        new = builds.enter_context(running(here, build_gated("c", "d", seed="new")))
        gates.wait_inside(4)
        wait_until(lambda: (brokers(here, PREFIX), brokers(here, UPGRADED)) == (1, 1), "one broker of each build")
        for name in "ab":
            gates.let_through(name)
        _, stderr = old.communicate(timeout=60)
        assert old.returncode == 0, stderr
        wait_until(lambda: brokers(here, PREFIX) == 0, "the end of the old broker")
        here.hook = HOOK
        late = builds.enter_context(running(here, build_gated("e", seed="late")))
        gates.wait_for("+ e")
        for name in "cde":
            gates.let_through(name)
        for build in (new, late):
            _, stderr = build.communicate(timeout=60)
            assert build.returncode == 0, stderr
    wait_until(lambda: (brokers(here, PREFIX), brokers(here, UPGRADED)) == (1, 0), "the end of the new broker")
    is_clean(here, there)


@pytest.mark.usefixtures("at_once")
def test_of_brokers_that_start_at_once_one_serves_all_clients(here: Host, there: Host) -> None:
    """Three commands ask a daemon at the same moment, and no broker runs yet."""
    here.start_daemon()
    gates = Gates(there)
    with ExitStack() as held:
        builds = [held.enter_context(running(here, build_gated(name, seed="race"))) for name in "abc"]
        gates.wait_inside(CLIENTS)
        assert len(here.read_file(STARTED).splitlines()) == CLIENTS
        assert count(here, rf"{PREFIX}\S*/nix-ferry-standalone") == 0
        wait_until(lambda: brokers(here, PREFIX) == 1, "the end of the brokers that lost")
        for name in "abc":
            gates.let_through(name)
        for build in builds:
            _, stderr = build.communicate(timeout=60)
            assert build.returncode == 0, stderr
    here.stop_daemon()
    is_clean(here, there)
