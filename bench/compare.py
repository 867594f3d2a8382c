"""Run several ways of doing one thing in turn, and keep the numbers.

A machine has slow moments; taking the sides in turn, round by round, lets every side have its share of them, and the
ratio of each round is one observation.  Reported are medians and quartiles.  Every comparison is written to one file in
results/, with what it was measured on.
"""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hook

RESULTS = Path(__file__).parent / "results"

Side = Callable[[], object]
"""One way of doing it.  A float that it returns is the time it took: some know better when the clock started."""


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """Seconds per run for each side; the last side is the one the others are compared with."""

    name: str
    date: str
    versions: Mapping[str, str]
    samples: Mapping[str, list[float]]

    def seconds(self, side: str) -> Spread:
        """Time taken by one side."""
        return _spread(self.samples[side])

    def ratio(self, side: str) -> Spread:
        """How many times as long as the last side this one took, round by round."""
        ours = list(self.samples.values())[-1]
        return _spread([theirs / own for theirs, own in zip(self.samples[side], ours, strict=True)])

    def write(self) -> Path:
        """Keep it in results/, under its name and date."""
        *others, _ = self.samples
        record = {
            "name": self.name,
            "date": self.date,
            "versions": self.versions,
            "samples": self.samples,
            "seconds": {side: vars(self.seconds(side)) for side in self.samples},
            "ratio": {side: vars(self.ratio(side)) for side in others},
        }
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}-{self.date.replace(':', '')}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        return path

    def __str__(self) -> str:
        *others, _ = self.samples
        times = ", ".join(f"{side} {self.seconds(side).median * 1e3:.1f} ms" for side in self.samples)
        ratios = ", ".join(
            f"{ratio.median:.2f} x {side} ({ratio.low:.2f} - {ratio.high:.2f})"
            for side in others
            for ratio in [self.ratio(side)]
        )
        return f"{self.name}: {times}; {ratios}"


def paired(
    name: str,
    sides: Mapping[str, Side],
    rounds: int,
    *,
    before: Side = lambda: None,
    benchmark: Any = None,
) -> Result:
    """Run all `sides` once per round, `before` each run and not timed; the result is written as well.

    With pytest-benchmark's fixture given, that times the last side, which thus appears in its table.
    """
    *others, (ours, run) = sides.items()
    samples: dict[str, list[float]] = {side: [] for side in sides}

    def run_others() -> None:
        for side, call in others:
            before()
            samples[side].append(_timed(call))
        before()

    def run_ours() -> None:
        samples[ours].append(_timed(run))

    if benchmark is None or benchmark.disabled:
        for _ in range(rounds):
            run_others()
            run_ours()
    else:
        benchmark.pedantic(run_ours, setup=run_others, rounds=rounds)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    result = Result(name, date, versions(), samples)
    result.write()
    return result


def versions() -> dict[str, str]:
    """What the numbers depend on."""
    nix = subprocess.run(["nix-store", "--version"], check=True, capture_output=True, text=True).stdout
    return {
        "nix-ferry": hook.__version__,
        "nix": nix.split()[-1],
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": f"{os.cpu_count()} x {_processor()}",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _timed(call: Side) -> float:
    start = time.perf_counter()
    own = call()
    return own if isinstance(own, float) else time.perf_counter() - start


def _spread(values: list[float]) -> Spread:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Spread(median, low, high)
