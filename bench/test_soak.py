"""Ten thousand builds through one broker: what it holds after each tenth of them; the second half must add nothing.

Real hooks and a scripted machine, since real builds would take an hour and the broker would not know the difference.
"""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from bench.compare import RESULTS, versions
from tests.fakes.bench import Bench
from tests.fakes.soak import WARM_DESCRIPTORS, Soak

BUILDS = 10_000
PARTS = 10
MOST_KIB = 80 << 10
GROWTH_KIB = 512
"""By how much the least of several samples may differ by chance; what is never freed is in each of them."""

SET_ASIDE = 2
"""Of builds.jsonl and decisions.jsonl, the older half, once it is full."""


def test_soak(tmp_path: Path) -> None:
    with Bench(tmp_path, broker=True) as bench:
        samples = list(Soak(bench).run(BUILDS, PARTS))
    date = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"name": "soak", "date": date, "versions": versions(), "samples": [asdict(each) for each in samples]}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"soak-{date.replace(':', '')}.json").write_text(json.dumps(record, indent=1) + "\n")
    # In the first part everything is used for the first time.
    first, second = samples[1 : PARTS // 2], samples[PARTS // 2 :]
    middle, end = first[-1], samples[-1]
    assert max(each.resident_kib for each in samples) <= MOST_KIB
    assert min(each.resident_kib for each in second) <= min(each.resident_kib for each in first) + GROWTH_KIB
    assert end.descriptors <= middle.descriptors + WARM_DESCRIPTORS
    assert end.sockets <= middle.sockets
    assert end.files <= middle.files + SET_ASIDE
