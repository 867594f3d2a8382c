"""A broker lives for weeks: what a build leaves in it is nothing.  Ten thousand builds are in bench/test_soak.py."""

from pathlib import Path

from tests.fakes.bench import Bench
from tests.fakes.soak import WARM_DESCRIPTORS, Soak

BUILDS = 320
MOST_KIB = 80 << 10


def test_a_broker_holds_no_more_after_many_builds(tmp_path: Path) -> None:
    with Bench(tmp_path, broker=True) as bench:
        first, *_, last = Soak(bench).run(BUILDS, parts=4)
    assert last.resident_kib <= MOST_KIB
    assert last.descriptors <= first.descriptors + WARM_DESCRIPTORS
    assert last.sockets <= first.sockets
    assert last.files <= first.files
