"""The cells that are run, and the hosts they run on."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import report
from tests.faults.matrix import Cell, all_cells, some_cells
from tests.faults.report import RESULT, Result
from tests.faults.site import Site
from tests.lab import roots
from tests.lab.lab import Lab

EVERY = 4
"""Of so many pairs of a fault and a step, one is tested by `make test`."""


class Keeper:
    """Adds what came of each cell to what is kept."""

    def __init__(self) -> None:
        self._results = report.load()
        self._new = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            for name, value in report.user_properties:
                if name == RESULT:
                    fault, way, outcome, seconds = value
                    self._new = True
                    self._results.setdefault(fault, {})[way] = Result(report.passed, outcome, round(seconds, 1))

    def pytest_sessionfinish(self) -> None:
        if self._new:
            report.save(self._results)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--cells") != "some" and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Keeper())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cell" in metafunc.fixturenames:
        match metafunc.config.getoption("--cells"):
            case "all":
                cells = all_cells(roots.SUITES)
            case "once":
                cells = some_cells(roots.SUITES[-1], 1)
            case _:
                cells = some_cells(roots.SUITES[-1], EVERY)
        metafunc.parametrize("cell", list(cells), ids=str)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """preload.c, compiled."""
    source, target = Path(__file__).with_name("preload.c"), tmp_path_factory.mktemp("faults") / "preload.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", target, source], check=True)
    return target


@pytest.fixture(scope="module")
def sites(lab: Lab) -> Iterator[dict[str, Site]]:
    """By release, once it was needed."""
    made: dict[str, Site] = {}
    yield made
    for site in made.values():
        site.close()


@pytest.fixture
def site(lab: Lab, sites: dict[str, Site], library: Path, cell: Cell) -> Site:
    """Hosts with the release of Nix that `cell` is about, and one with another to move to."""
    if cell.suite not in sites:
        hosts = (lab.client(cell.suite), lab.builder(cell.suite), lab.builder(roots.other(cell.suite)))
        for host in hosts:
            host.reset()
        sites[cell.suite] = Site(*hosts, library)
    sites[cell.suite].end_all()
    return sites[cell.suite]
