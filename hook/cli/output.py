"""How the nix-ferry command prints: tables in colour for a terminal, plain aligned columns for a pipe, or JSON."""

import json
import sys
from collections.abc import Sequence

import click

GAP = "  "


def print_json(value: object) -> None:
    """One JSON document."""
    click.echo(json.dumps(value, indent=2, sort_keys=True))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows below a header; cut and coloured for a terminal, whole lines otherwise."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*header, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            # What a machine says may contain what looks like markup.
            table.add_row(*(Text(cell) for cell in row))
        Console().print(table)
        return
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]
    for line in (header, *rows):
        click.echo(GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
