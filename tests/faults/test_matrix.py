"""Every fault at every step: the build ends as promised and in time, nothing is left of it, and the next one succeeds.

Two machines can build; the first choice is the one that things go wrong with.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.matrix import BUILT, Cell
from tests.faults.site import BOUND_S, Site
from tests.faults.strikes import STRIKES

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]


@contextmanager
def struck(site: Site, cell: Cell) -> Iterator["subprocess.Popen[str]"]:
    """A build during which it happens."""
    site.arm(cell.step)
    if cell.fault.ends_attempt:
        site.hold_build(cell.step)
    with site.building() as build:
        site.wait_for(cell.step)
        STRIKES[cell.fault.name](site)
        site.go_on(cell.step)
        yield build


@contextmanager
def struck_before_registering(site: Site, cell: Cell) -> Iterator["subprocess.Popen[str]"]:
    """The same, when the output has come but cannot be registered yet."""
    site.arm("download end")
    site.arm("register")
    with site.building() as build:
        site.wait_for("download end")
        with site.database_locked():
            site.go_on("download end")
            site.go_on("register")
            site.wait_for_output()
            STRIKES[cell.fault.name](site)
        yield build


def test_what_was_promised_happens(site: Site, cell: Cell) -> None:
    site.use(cell.scheme, cell.mode)
    site.fresh_input()
    strike = struck_before_registering if cell.step == "register" else struck
    with strike(site, cell) as build:
        _, stderr = build.communicate(timeout=BOUND_S)
    assert (build.returncode == 0) == (cell.fault.promise(cell.step) == BUILT), stderr
    site.is_clean()
    site.disarm()
    with site.building() as build:
        out, stderr = build.communicate(timeout=BOUND_S)
    assert build.returncode == 0, stderr
    assert "<download end>" in site.client.read_file(out.strip())
    site.is_clean()
