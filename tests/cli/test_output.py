"""What the nix-ferry command prints."""

import io

import pytest
from rich.console import Console

from hook.cli.output import make_table, print_table, shares


def test_no_cell_drives_a_terminal_or_passes_for_another_row(capsys: pytest.CaptureFixture[str]) -> None:
    """A machine says what it likes, and root reads it."""
    print_table(("MACHINE", "SAYS"), [("b1", "\x1b]0;title\x07 Nix\nb2       fine"), ("b3", "é")])
    assert capsys.readouterr().out.splitlines() == [
        "MACHINE  SAYS",
        r"b1       \x1b]0;title\x07 Nix\nb2       fine",
        "b3       é",
    ]


@pytest.mark.parametrize(
    ("wanted", "room", "given"),
    [
        ([5, 5], 20, [5, 5]),
        ([5, 30], 20, [5, 15]),
        ([30, 5, 40], 25, [10, 5, 10]),
        ([30, 5, 12], 25, [10, 5, 10]),
        ([3, 3], 0, [0, 0]),
        ([3, 3], -4, [0, 0]),
    ],
)
def test_the_widest_columns_give_way(wanted: list[int], room: int, given: list[int]) -> None:
    assert shares(wanted, room) == given


def test_a_table_fits_a_terminal() -> None:
    """Names keep both ends; what a machine says goes to more lines."""
    rows = [
        (f"a-long-name-of-a-machine-{number}", "12/16", "it refused the login, as it always does") for number in (1, 2)
    ]
    console = Console(file=io.StringIO(), width=40, color_system=None)
    with console.capture() as shown:
        console.print(make_table(("MACHINE", "SLOTS", "SAYS"), rows, console.width))
    lines = shown.get().splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert [line.split()[0] for line in lines if "12/16" in line] == ["a-long-…chine-1", "a-long-…chine-2"]
    assert " ".join(line[24:] for line in lines[1:4]).split() == rows[0][2].split()
