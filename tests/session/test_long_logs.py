"""Logs much longer than any buffer: every line arrives, and nothing of it stays in memory."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.bench import Bench
from tests.fakes.daemon import CHATTY_LINES

ALLOWED_GROWTH_KIB = 4 << 10
"""Of 25 MB that pass through; the buffer and the C module for it are new at the first log."""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path, broker=True) as bench:
        yield bench


def peak_kib(bench: Bench) -> int:
    """The most memory the broker has had so far."""
    status = Path(f"/proc/{bench.broker_pid()}/status").read_text()
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(peak)


def test_a_long_log_arrives_whole_and_takes_no_memory(bench: Bench) -> None:
    assert bench.build(bench.machine("build-fails")).status == 1
    before = peak_kib(bench)
    outcome = bench.build(bench.machine("chatty"))
    assert peak_kib(bench) < before + ALLOWED_GROWTH_KIB
    assert outcome.status == 0
    line = '"fields":["one of many lines of the log"]'
    assert sum(line in shown for shown in outcome.lines) == CHATTY_LINES
