"""The cells that are run, and the hosts they run on."""

from collections.abc import Iterator

import pytest

from tests.faults.matrix import Cell, all_cells, some_cells
from tests.faults.site import Site
from tests.lab import roots
from tests.lab.lab import Lab


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cell" in metafunc.fixturenames:
        everything = metafunc.config.getoption("--every-cell")
        cells = list(all_cells(roots.SUITES) if everything else some_cells(roots.SUITES[-1]))
        metafunc.parametrize("cell", cells, ids=str)


@pytest.fixture(scope="module")
def sites(lab: Lab) -> Iterator[dict[str, Site]]:
    """By release, once it was needed."""
    made: dict[str, Site] = {}
    yield made
    for site in made.values():
        site.close()


@pytest.fixture
def site(lab: Lab, sites: dict[str, Site], cell: Cell) -> Site:
    """Hosts with the release of Nix that `cell` is about, and one with another to move to."""
    if cell.suite not in sites:
        hosts = (lab.client(cell.suite), lab.builder(cell.suite), lab.builder(roots.other(cell.suite)))
        for host in hosts:
            host.reset()
        sites[cell.suite] = Site(*hosts)
    sites[cell.suite].end_all()
    return sites[cell.suite]
