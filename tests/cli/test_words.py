"""Builds, durations and sizes in the words of people."""

import pytest

from hook.cli.words import brief, derivation_name, duration, short_names, shortened, size


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


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.94, "59.9s"),
        (3599, "59m59s"),
        (86399, "23h59m"),
    ],
)
def test_brief_durations(seconds: float, said: str) -> None:
    assert brief(seconds) == said


@pytest.mark.parametrize(
    ("addresses", "names"),
    [
        (["ssh-ng://builder-1", "ssh-ng://joe@builder-2:22?compress=true"], ["builder-1", "builder-2"]),
        (["ssh-ng://joe@b", "ssh-ng://jim@b", "ssh://c"], ["joe@b", "jim@b", "c"]),
        (["ssh-ng://b", "ssh://b"], ["ssh-ng://b", "ssh://b"]),
        (
            ["ssh://b1.example.org", "ssh://b2.example.org:22", "ssh://b2.example.com"],
            ["b1", "b2.example.org", "b2.example.com"],
        ),
        (["ssh://192.0.2.1", "ssh://192.0.2.2"], ["192.0.2.1", "192.0.2.2"]),
        (["b", "ssh://b", "/srv/store"], ["b", "ssh://b", "/srv/store"]),
        (["ssh://[2001:db8::1]:22", "unix:///run/x", "local?root=/x"], ["[2001:db8::1]:22", "/run/x", "local?root=/x"]),
    ],
)
def test_a_machine_is_called_by_its_host_where_that_tells_it_apart(addresses: list[str], names: list[str]) -> None:
    assert list(short_names(addresses).values()) == names


@pytest.mark.parametrize(
    ("width", "said"),
    [(20, "builder-of-a-team-17"), (12, "builde…am-17"), (3, "b…7"), (2, "b…"), (1, "…"), (0, "")],
)
def test_a_name_loses_its_middle(width: int, said: str) -> None:
    assert shortened("builder-of-a-team-17", width) == said
