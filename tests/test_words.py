"""Builds, durations and sizes in the words of people."""

import pytest

from hook.cli.words import derivation_name, duration, size


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.97, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (86399, "23 h 59 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (5, "5 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (9940, "9.9 KB"),
        (9950, "10 KB"),
        (999_499, "999 KB"),
        (999_500, "1.0 MB"),
        (1 << 30, "1.1 GB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes(count: int, said: str) -> None:
    assert size(count) == said


@pytest.mark.parametrize(
    ("path", "name"),
    [("/nix/store/00000000000000000000000000000001-a-b.drv", "a-b"), ("/nix/store/strange", "/nix/store/strange")],
)
def test_names(path: str, name: str) -> None:
    assert derivation_name(path) == name
