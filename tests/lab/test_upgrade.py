"""Hooks of two versions on one client, each with a broker of its own version: an upgrade while builds run.

With real Nix; how one broker makes room for another is in tests/test_broker.py.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

import hook
from tests.lab import roots
from tests.lab.gates import Gates, build_gated
from tests.lab.host import Host, wait_until
from tests.lab.install import HOOK, PREFIX, SOURCES
from tests.lab.lab import Lab
from tests.lab.midway import is_clean, running

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]

SLOTS = 8
UPGRADED = "/opt/upgraded"
VERSION = "9.9.9"
"""A later one than ours will ever be."""


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
    """The hook of another version, which is installed beside ours."""
    tree = here.path(UPGRADED)
    shutil.copytree(here.path(PREFIX), tree)
    package = tree / "lib/hook/__init__.py"
    package.write_text(package.read_text().replace(hook.__version__, VERSION))
    script = tree / "bin/nix-ferry-broker"
    script.write_text(script.read_text().replace(PREFIX, UPGRADED))
    options = ["-std=c11", "-D_GNU_SOURCE", f'-DFERRY_VERSION="{VERSION}"', "-static"]
    sources = (SOURCES / "native/shim").glob("*.c")
    subprocess.run(["gcc", *options, "-o", tree / "bin/nix-ferry-hook", *sources], check=True)
    yield f"{UPGRADED}/bin/nix-ferry-hook"
    shutil.rmtree(tree)


def brokers(here: Host, prefix: str) -> int:
    """Return how many are there."""
    pattern = rf"\S+ {prefix}\S*/nix-ferry-broker"
    return sum(bool(re.match(pattern, command)) for command in here.processes().values())


def test_hooks_of_another_version_arrive_in_the_middle(here: Host, there: Host, upgraded: str) -> None:
    """Each build ends where it began; one that comes late, of the old version, is served as well."""
    gates = Gates(there)
    with ExitStack() as builds:
        old = builds.enter_context(running(here, build_gated("a", "b", seed="old")))
        gates.wait_inside(2)
        here.hook = upgraded
        new = builds.enter_context(running(here, build_gated("c", "d", seed="new")))
        gates.wait_inside(4)
        assert (brokers(here, PREFIX), brokers(here, UPGRADED)) == (1, 1)
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
