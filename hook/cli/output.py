"""How the nix-ferry command prints: tables in colour for a terminal, plain aligned columns for a pipe, or JSON."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from hook.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

GAP = "  "


def print_json(value: object) -> None:
    """One JSON document."""
    click.echo(json.dumps(value, indent=2, sort_keys=True))


def make_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, wrap: bool = True) -> "Table":
    """Rows below a header, for a terminal; what does not fit goes to more lines, or is cut."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    # Not columns that cannot wrap: those are all cut by the same share, instead of the widest.
    for title in header:
        table.add_column(Text(title, no_wrap=not wrap))
    for row in rows:
        # What a machine says may contain what looks like markup.
        table.add_row(*(Text(printable(cell), no_wrap=not wrap) for cell in row))
    return table


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows below a header; cut and coloured for a terminal, whole lines otherwise."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(make_table(header, rows))
        return
    lines = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo(GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
