"""`make demo` as a newcomer runs it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.host import wait_until
from tests.lab.install import SOURCES

pytestmark = pytest.mark.lab

DEMO = [sys.executable, "-m", "tests.lab.demo"]


def descendants(pid: int) -> set[int]:
    """Return all processes below `pid`, in whatever namespace."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended
        return set()
    return set(children).union(*(descendants(child) for child in children))


def test_the_demo_shows_a_build_elsewhere_and_how_to_get_one() -> None:
    shown = subprocess.run(DEMO, cwd=SOURCES, capture_output=True, text=True, check=False, timeout=180)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "builder-1  narhash\n" in shown.stdout or "builder-2  narhash\n" in shown.stdout
    assert "none of them on the client" in shown.stdout
    assert "build-hook = " in shown.stdout


def test_the_demo_cleans_up_when_interrupted() -> None:
    """Ctrl-C at the worst moment: while both builders compile."""
    demo = subprocess.Popen(DEMO, cwd=SOURCES, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    while "nix-build" not in demo.stdout.readline():
        assert demo.poll() is None
    below = descendants(demo.pid)
    demo.send_signal(signal.SIGINT)
    stdout, stderr = demo.communicate(timeout=60)
    assert (demo.returncode, stderr) == (130, "")
    assert "interrupted" in stdout
    assert below
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), "end of the demo's hosts")
