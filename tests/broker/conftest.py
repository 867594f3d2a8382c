"""Fixtures that several tests of a broker share."""

import queue
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hook.broker import server as broker_module
from hook.broker.serving import Serve
from tests.broker.running import Running, quick


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts brokers, and ends them with the test."""
    made: list[Running] = []

    def start(serve: Serve = quick, **options: float) -> Running:
        made.append(Running(tmp_path, serve, **options))
        return made[-1].start()

    yield start
    for running in made:
        running.close()


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> "queue.Queue[str]":
    """Lines of the broker's log."""
    lines: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(broker_module, "log", lines.put)
    return lines
