"""What is measured is what arrives; a machine that says or does something else has no speed."""

import itertools
import subprocess
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from hook.cli.probe import speed
from hook.cli.probe.speed import Speed, download, upload

Way = Callable[["subprocess.Popen[bytes]"], float | None]


def run(command: str, way: Way) -> float | None:
    pipe = subprocess.PIPE
    with subprocess.Popen(["sh", "-c", command], stdin=pipe, stdout=pipe, bufsize=0) as child:
        try:
            return way(child)
        finally:
            child.kill()


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes as long as it has pieces, however slow this host is."""
    clock = itertools.count(0.0, 0.001)
    monkeypatch.setattr(speed, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(speed, "MOST_S", 0.2)
    monkeypatch.setattr(speed, "MOST_BYTES", 4 << 20)


def test_bytes_are_counted_at_the_other_end() -> None:
    assert (run(speed.UPLOAD, upload) or 0) > 1 << 20
    assert (run(speed.DOWNLOAD, download) or 0) > 1 << 20


@pytest.mark.parametrize(
    ("command", "way"),
    [
        ("echo Welcome to the builder; wc -c", upload),
        ("echo Welcome to the builder; head -c 1000 /dev/zero", download),
        ("echo nix-ferry ready; cat > /dev/null; echo 12", upload),
        ("echo nix-ferry ready", download),
        ("exit 1", upload),
    ],
)
def test_what_is_no_answer_is_no_speed(command: str, way: Way) -> None:
    """A shell profile that prints, a count that is another, nothing at all."""
    assert run(command, way) is None


def test_a_speed_is_shown_in_mebibytes() -> None:
    assert Speed(117.4 * (1 << 20), None).row() == ("117 MiB/s", "-")
