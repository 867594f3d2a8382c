"""The live view of `nix-ferry status --watch`: as large as the terminal is at each moment, and no larger.

Tested in test_live.py, and in tests/lab/test_status.py at a terminal that is resized.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from hook.cli.output import make_table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Section = tuple[Sequence[str], Sequence[Sequence[str]]]
"""A header and rows."""

Screen = tuple[str, Sequence[Section]]
"""A headline, and what is below it."""


def show(screens: Iterable[Screen]) -> None:
    """Show one after the other, in place of what the terminal showed before; that is back at the end."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for screen in screens:
            live.update(view(screen, console), refresh=True)


def view(screen: Screen, console: "Console") -> "RenderableType":
    """One screen, every row of it on a line; where there are more rows than lines, it says how many are left out."""
    from rich.console import Group
    from rich.text import Text

    headline, sections = screen
    # The headline; before each section an empty line and its header.
    counts = shares([len(rows) for _, rows in sections], console.size.height - 1 - 2 * len(sections))
    parts: list[RenderableType] = [Text(headline, no_wrap=True, overflow="ellipsis")]
    for (header, rows), count in zip(sections, counts, strict=True):
        parts += [Text(), make_table(header, rows[:count], console.width, wrap=False)]
        if count < len(rows):
            parts.append(Text(f"… {len(rows) - count} more", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def shares(wanted: Sequence[int], lines: int) -> list[int]:
    """How many rows of each section fit into `lines`; one with fewer rows leaves the rest of its share to the others.

    A section that is cut needs a line to say so.
    """
    counts = [0] * len(wanted)
    left = max(lines, 0)
    smallest_first = sorted(range(len(wanted)), key=lambda index: wanted[index])
    for done, index in enumerate(smallest_first):
        share = left // (len(wanted) - done)
        counts[index] = wanted[index] if wanted[index] <= share else max(share - 1, 0)
        left -= min(wanted[index], share)
    return counts
