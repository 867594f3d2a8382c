"""Fixtures that several directories of tests share."""

import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import REPOSITORY
from tests.fakes.bench import Bench
from tests.fakes.shims import INSTALLED, Bin, FakeBroker, Nix
from tests.lab import install, roots
from tests.lab.host import Host
from tests.lab.lab import Lab

HOSTS = ("client", "builder")
"""Fixtures that are a host; a test that asks for one runs on every release of Nix."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--hook",
        dest="hooks",
        action="append",
        choices=("ferry", "standalone", "stock"),
        help="the build hook of the lab's clients: through a broker, in one process, or stock to test the lab itself; "
        "given more than once, lab tests run with each",
    )
    parser.addoption("--cells", choices=("some", "once", "all"), default="some", help="of the matrix in tests/faults")
    parser.addoption("--chaos", default="10x60", help="how many seconds and builds (test_chaos)")


# How long an example takes depends on what else the machine does.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_configure() -> None:
    # A shell has its background jobs ignore it, and what tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "lab" in metafunc.fixturenames:
        once = metafunc.definition.get_closest_marker("any_hook") is not None
        metafunc.parametrize("mode", _hooks(metafunc.config)[: 1 if once else None], indirect=True)
    for name in HOSTS:
        if name in metafunc.fixturenames and not _chooses(metafunc.definition, name):
            ids = [f"{name}-{roots.label(suite)}" for suite in roots.SUITES]
            metafunc.parametrize(name, roots.SUITES, ids=ids, indirect=True)


def _chooses(item: pytest.Item, name: str) -> bool:
    """Whether a test gives the releases of a host itself, because not all of them will do."""
    return any(name in mark.args[0] for mark in item.iter_markers("parametrize"))


def _hooks(config: pytest.Config) -> Sequence[str]:
    return config.getoption("hooks") or ("ferry",)


@pytest.fixture(params=["standalone", "broker"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Scripted machines, and real hooks with a broker and without."""
    with Bench(tmp_path, broker=request.param == "broker") as bench:
        yield bench


@pytest.fixture
def brokered(tmp_path: Path) -> Iterator[Bench]:
    """The same, with a broker only."""
    with Bench(tmp_path, broker=True) as bench:
        yield bench


@pytest.fixture(scope="session")
def shims() -> dict[str, Path]:
    """The shim as it is installed, and one built with sanitizers."""
    # Several workers of one run come at once.
    with (REPOSITORY / "native/Makefile").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", "-sC", REPOSITORY / "native", "check/nix-ferry-hook"], check=True)
    return {"installed": INSTALLED / "nix-ferry-hook", "sanitized": REPOSITORY / "native/check/nix-ferry-hook"}


@pytest.fixture(params=["installed", "sanitized"])
def programs(tmp_path: Path, shims: dict[str, Path], request: pytest.FixtureRequest) -> Bin:
    """A shim with programs beside it."""
    return Bin(tmp_path, shims[request.param])


@pytest.fixture
def broker(programs: Bin) -> Iterator[FakeBroker]:
    """The test is the broker."""
    broker = FakeBroker(programs.directory)
    yield broker
    broker.close()


@pytest.fixture
def nix(programs: Bin) -> Iterator[Nix]:
    """The test is Nix."""
    nix = Nix(programs)
    yield nix
    nix.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    def ferry() -> Path:
        directory = tmp_path_factory.getbasetemp()
        # Several workers of one run share what they test.
        if "PYTEST_XDIST_WORKER" in os.environ:
            directory = directory.parent
        with (directory / "nix-ferry.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return install.build(directory / "nix-ferry")

    with Lab(ferry) as hosts:
        yield hosts


@pytest.fixture(autouse=True)
def mode(request: pytest.FixtureRequest) -> None:
    """Have the lab's hooks work as this test wants them to."""
    if "lab" in request.fixturenames:
        request.getfixturevalue("lab").standalone(request.param == "standalone")


@pytest.fixture
def modes(request: pytest.FixtureRequest) -> Sequence[str]:
    """All ways in which hooks are to work, for a test marked `any_hook` that goes through them itself."""
    return _hooks(request.config)


@pytest.fixture
def hook(request: pytest.FixtureRequest) -> str | None:
    """The build hook under test, for Host.configure."""
    return None if "stock" in _hooks(request.config) else install.HOOK


@pytest.fixture
def client(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host with nix-ferry and an empty store; after the test none of its processes may be left."""
    yield from _fresh(lab, lab.client(request.param))


@pytest.fixture
def builder(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host to build on with an empty store; after the test none of its processes may be left."""
    yield from _fresh(lab, lab.builder(request.param))


@pytest.fixture
def twin(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Host]:
    """A builder with the release of Nix that `client` has."""
    yield from _fresh(lab, lab.builder(_suite(request)))


@pytest.fixture
def other_builder(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Host]:
    """A builder with another release of Nix than `client` has."""
    yield from _fresh(lab, lab.builder(roots.other(_suite(request))))


def _suite(request: pytest.FixtureRequest) -> str:
    suite = request.node.callspec.params["client"]
    assert isinstance(suite, str)
    return suite


def _fresh(lab: Lab, host: Host) -> Iterator[Host]:
    host.reset()
    yield host
    host.stop_daemon()
    lab.stop_brokers()
    host.wait_idle()
