"""Comparisons are printed together, below pytest-benchmark's own table."""

from collections.abc import Callable, Mapping

import pytest

from bench.compare import Result, Side, paired

_results: list[Result] = []

Compare = Callable[..., Result]


@pytest.fixture
def compare(benchmark) -> Compare:
    """`paired`, shown in both tables."""

    def run(name: str, sides: Mapping[str, Side], rounds: int, before: Side = lambda: None) -> Result:
        result = paired(name, sides, rounds, before=before, benchmark=benchmark)
        _results.append(result)
        return result

    return run


def pytest_terminal_summary(terminalreporter):
    if _results:
        terminalreporter.section("compared, side by side")
        for result in _results:
            terminalreporter.write_line(str(result))
