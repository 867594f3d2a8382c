"""How the nix-ferry command prints: tables in colour for a terminal, plain aligned columns for a pipe, or JSON."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from hook.cli.words import shortened
from hook.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

GAP = "  "
NAMES = ("MACHINE", "DERIVATION")
"""Columns of names."""


def print_json(value: object) -> None:
    """One JSON document."""
    click.echo(json.dumps(value, indent=2, sort_keys=True))


def make_table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, wrap: bool = True) -> "Table":
    """Rows below a header, for a terminal of `width` columns.

    Where there is too little room, names lose their middle; other cells go to more lines, or are cut.
    """
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    cells = [[printable(cell) for cell in row] for row in rows]
    wanted = [max(map(cell_len, column)) for column in zip(header, *cells, strict=True)]
    widths = shares(wanted, width - len(GAP) * (len(header) - 1))
    table = Table(box=None, pad_edge=False, header_style="bold")
    # Not columns that cannot wrap: those are all cut by the same share, instead of the widest.
    for title, share in zip(header, widths, strict=True):
        table.add_column(Text(shortened(title, share), no_wrap=not wrap))
    for row in cells:
        shown = [
            shortened(cell, share) if title in NAMES else cell
            for title, cell, share in zip(header, row, widths, strict=True)
        ]
        # What a machine says may contain what looks like markup.
        table.add_row(*(Text(cell, no_wrap=not wrap) for cell in shown))
    return table


def shares(wanted: Sequence[int], room: int) -> list[int]:
    """How wide each column may be: as it wants to, but for the widest, which share what the others leave of `room`."""
    widths = list(wanted)
    left = max(room, 0)
    narrowest_first = sorted(range(len(wanted)), key=lambda column: wanted[column])
    for done, column in enumerate(narrowest_first):
        widths[column] = min(wanted[column], left // (len(wanted) - done))
        left -= widths[column]
    return widths


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows below a header; made to fit and coloured for a terminal, whole lines otherwise."""
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        console.print(make_table(header, rows, console.width))
        return
    lines = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo(GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
