"""Every fault at every step: the build ends as promised and in time, nothing is left of it, and the next one succeeds.

Two machines can build; the first choice is the one that things go wrong with.
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.faults.matrix import BETWEEN, BUILT, GIVEN_UP, Cell
from tests.faults.report import RESULT
from tests.faults.site import BOUND_S, Site
from tests.faults.strikes import STRIKES, Strike

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]


@contextmanager
def struck(site: Site, cell: Cell, strike: Strike) -> Iterator["subprocess.Popen[str]"]:
    """A build during which it happens."""
    site.arm(cell.step, strike.act)
    if cell.fault.ends_attempt:
        site.hold_build(cell.step)
    with site.building(strike.environ, strike.options) as build:
        site.wait_for(cell.step)
        strike.when_reached(site)
        site.go_on(cell.step)
        strike.when_going_on(site)
        yield build


@contextmanager
def struck_before_registering(site: Site, cell: Cell, strike: Strike) -> Iterator["subprocess.Popen[str]"]:
    """The same, when the output has come but cannot be registered yet."""
    site.arm("download end")
    site.arm("register", strike.act)
    site.go_on("register")
    with site.building(strike.environ, strike.options) as build:
        site.wait_for("download end")
        site.lock_database()
        site.go_on("download end")
        site.wait_for_output()
        strike.when_reached(site)
        strike.when_going_on(site)
        site.unlock_database()
        yield build


@contextmanager
def struck_between(site: Site, cell: Cell, strike: Strike) -> Iterator["subprocess.Popen[str]"]:
    """A build that is asked for right after it has happened to a machine that has just built another one."""
    with site.building(strike.environ, strike.options) as build:
        _, stderr = build.communicate(timeout=BOUND_S)
    assert f"on '{cell.scheme}://{site.first.name}" in stderr
    site.fresh_input()
    strike.when_reached(site)
    with site.building(strike.environ, strike.options) as build:
        yield build


WAYS = {"register": struck_before_registering, BETWEEN: struck_between}


def test_what_was_promised_happens(site: Site, cell: Cell, record_property: Callable[[str, object], None]) -> None:
    strike = STRIKES[cell.fault.name]
    site.use(cell.scheme, cell.mode)
    site.fresh_input()
    with WAYS.get(cell.step, struck)(site, cell, strike) as build:
        started = time.monotonic()
        _, stderr = build.communicate(timeout=BOUND_S)
        seconds = time.monotonic() - started
    strike.afterwards(site)
    outcome = BUILT if build.returncode == 0 else GIVEN_UP
    record_property(RESULT, (cell.fault.name, cell.way, outcome, seconds))
    assert cell.fault.allows(outcome, cell.step), stderr
    if cell.fault.says:
        assert stderr.count(cell.fault.says) == 1, stderr
    site.is_clean()
    site.disarm()
    with site.building() as build:
        out, stderr = build.communicate(timeout=BOUND_S)
    assert build.returncode == 0, stderr
    assert "<download end>" in site.client.read_file(out.strip())
    site.is_clean()
