"""Comparisons are printed together, below pytest-benchmark's own table; benchmarks with two hosts share a fixture."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from bench import delay
from bench.compare import Result, Side, paired
from tests.lab import install
from tests.lab.host import Host
from tests.lab.lab import Lab

SUITE = "sid"
DELAY = "/usr/local/bin/delay"
ONE_WAY_S = 0.025
MAX_KIB = 64 << 10
"""What one session may take, the program that carries it out included."""

_results: list[Result] = []

Compare = Callable[..., Result]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lines", type=int, help="how many lines a build prints (test_log)")
    parser.addoption("--builds", type=int, help="how many builds the small disk takes (test_small_disk)")


def peak_of_broker(client: Host) -> int:
    """The most memory that the broker has needed so far, in KiB."""
    (broker,) = [pid for pid, command in client.processes().items() if "nix-ferry-broker" in command]
    status = Path(f"/proc/{broker}/status").read_text()
    (kib,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    return kib


@pytest.fixture
def compare(benchmark) -> Compare:
    """`paired`, shown in both tables."""

    def run(name: str, sides: Mapping[str, Side], rounds: int, before: Side = lambda: None) -> Result:
        result = paired(name, sides, rounds, before=before, benchmark=benchmark)
        _results.append(result)
        return result

    return run


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """A client with nix-ferry and a builder it can log in to, both with Nix 2.34 and their stores in memory."""
    with Lab(lambda: install.build(tmp_path_factory.mktemp("nix-ferry"))) as lab:
        client, builder = lab.client(SUITE), lab.builder(SUITE)
        client.trust(builder)
        yield client, builder


@pytest.fixture(scope="module")
def far(hosts: tuple[Host, Host]) -> str:
    """The name by which the client reaches the builder over a link with 50 ms there and back."""
    client, builder = hosts
    client.write_file(DELAY, Path(delay.__file__).read_bytes())
    client.trust(builder, "far")
    known = client.read_file("/root/.ssh/hosts/far")
    client.write_file("/root/.ssh/hosts/far", f"{known}  ProxyCommand python3 {DELAY} {ONE_WAY_S} %h %p\n", 0o600)
    return "far"


def pytest_terminal_summary(terminalreporter):
    if _results:
        terminalreporter.section("compared, side by side")
        for result in _results:
            terminalreporter.write_line(str(result))
