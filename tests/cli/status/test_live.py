"""A screen never needs more room than there is."""

import io

import pytest
from rich.console import Console

from hook.cli.status.live import Section, shares, view

HEADER = ("MACHINE", "STATE", "SAYS")


def lines(*sections: Section, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    with console.capture() as shown:
        console.print(view(("broker, process 7, for 3 min; nothing is under way", sections), console))
    return shown.get().splitlines()


def rows(count: int) -> Section:
    return HEADER, [
        (f"ssh-ng://machine-{number}", "failed: \x1b[2J" + "no route " * 20, "é") for number in range(count)
    ]


@pytest.mark.parametrize("width", [1, 20, 80, 500])
@pytest.mark.parametrize("height", [1, 7, 24])
def test_nothing_grows_beyond_the_terminal(width: int, height: int) -> None:
    """However many machines and builds there are, and however much they have to say."""
    shown = lines(rows(1000), rows(1000), width=width, height=height)
    assert len(shown) <= max(height, 7)
    assert all(len(line) <= width for line in shown)


def test_what_does_not_fit_is_counted() -> None:
    """Three builds leave their room to the machines."""
    shown = [line.rstrip() for line in lines(rows(100), rows(3), width=200, height=24)]
    assert [line for line in shown if line.startswith("…")] == ["… 85 more"]
    assert len(shown) == 24
    assert shown[-1].startswith("ssh-ng://machine-2 ")


@pytest.mark.parametrize(
    ("wanted", "room", "given"),
    [
        ([2, 3], 10, [2, 3]),
        ([2, 30], 10, [2, 7]),
        ([30, 2], 10, [7, 2]),
        ([30, 30], 10, [4, 4]),
        ([0, 9], 9, [0, 9]),
        ([5, 5], 0, [0, 0]),
        ([5, 5], -3, [0, 0]),
        ([], 5, []),
    ],
)
def test_rooms_are_shared(wanted: list[int], room: int, given: list[int]) -> None:
    """One that is cut has a line less, which says so."""
    assert shares(wanted, room) == given
