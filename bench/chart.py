"""Draw the newest result of each benchmark: `python -m bench.chart` writes results/chart.svg.

One row a benchmark: how many times as long as nix-ferry the first other side took, on a logarithmic scale, with the
quartiles of the rounds.  Right of the line at 1, nix-ferry is faster.
"""

import json
import math
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from bench.compare import RESULTS

ROW, LABEL, PLOT, MARGIN = 22, 330, 520, 12
COLOURS = {True: "#2f7d4f", False: "#b3532e"}


def newest(directory: Path) -> list[dict[str, Any]]:
    """The last result of each name, in the order of names; those that compare nothing have no place in a chart."""
    found: dict[str, dict[str, Any]] = {}
    for path in directory.glob("*.json"):
        result = json.loads(path.read_text())
        if "ratio" in result and result["date"] >= found.get(result["name"], result)["date"]:
            found[result["name"]] = result
    return [found[name] for name in sorted(found)]


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """One line of it."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    """A straight one."""
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}"/>'


def rows(results: Iterable[dict[str, Any]], x: "Scale") -> Iterator[str]:
    """A bar for the median, a thin line for the quartiles, and the number."""
    for number, result in enumerate(results, 1):
        side, ratio = next(iter(result["ratio"].items()))
        y = MARGIN + ROW * number
        start, end = sorted((x(1), x(ratio["median"])))
        colour = COLOURS[ratio["median"] >= 1]
        yield text(LABEL - 8, y + 4, f"{result['name']} ({side})", "end")
        yield f'<rect x="{start:.1f}" y="{y - 6}" width="{end - start:.1f}" height="12" fill="{colour}"/>'
        yield line(x(ratio["low"]), y, x(ratio["high"]), y, "#222")
        yield text(max(end, x(ratio["high"])) + 5, y + 4, f"{ratio['median']:.2g}")


class Scale:
    """Ratios from 1/4 to `top` on a logarithmic axis."""

    def __init__(self, top: float) -> None:
        self._low, self._high = math.log(0.25), math.log(top * 1.5)

    def __call__(self, ratio: float) -> float:
        share = (math.log(max(ratio, 0.25)) - self._low) / (self._high - self._low)
        return LABEL + PLOT * share


def draw(results: list[dict[str, Any]]) -> str:
    """The whole picture."""
    x = Scale(max((ratio["high"] for result in results for ratio in result["ratio"].values()), default=4))
    height = MARGIN * 2 + ROW * (len(results) + 1)
    marks = [mark for mark in (0.25, 0.5, 1, 2, 5, 10, 20, 50) if x(mark) < LABEL + PLOT]
    axis = [line(x(mark), MARGIN + 4, x(mark), height - MARGIN, "#222" if mark == 1 else "#ddd") for mark in marks]
    labels = [text(x(mark), MARGIN, f"{mark:g}", "middle") for mark in marks]
    size = f'width="{LABEL + PLOT + 40}" height="{height}"'
    style = 'font-family="sans-serif" font-size="12"'
    body = ['<rect width="100%" height="100%" fill="white"/>', *axis, *labels, *rows(results, x)]
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(body) + "\n</svg>\n"


if __name__ == "__main__":
    (RESULTS / "chart.svg").write_text(draw(newest(RESULTS)))
