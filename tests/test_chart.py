import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.chart import COLOURS, draw, newest

SVG = "{http://www.w3.org/2000/svg}"


def result(name: str, date: str, median: float) -> dict[str, object]:
    spread = {"median": median, "low": median / 2, "high": median * 2}
    return {"name": name, "date": date, "ratio": {"stock & co": spread, "raw": spread}}


def test_only_the_newest_result_of_each_benchmark_is_drawn(tmp_path: Path) -> None:
    """Older ones stay in the directory."""
    for number, made in enumerate(
        [result("b", "2026-11-02", 3), result("b", "2026-11-01", 9), result("a", "2025-01-01", 0.5)]
    ):
        (tmp_path / f"{number}.json").write_text(json.dumps(made))
    assert [(made["name"], made["date"]) for made in newest(tmp_path)] == [("a", "2025-01-01"), ("b", "2026-11-02")]


def test_a_bar_ends_right_of_one_where_nix_ferry_is_faster() -> None:
    """The picture must not flatter: a slower benchmark looks slower."""
    picture = ElementTree.fromstring(draw([result("slower", "", 0.5), result("faster", "", 30)]))
    slower, faster = picture.findall(f"{SVG}rect")[1:]
    assert (slower.get("fill"), faster.get("fill")) == (COLOURS[False], COLOURS[True])
    one = float(faster.get("x", ""))
    assert float(slower.get("x", "")) < one
    assert float(slower.get("x", "")) + float(slower.get("width", "")) == pytest.approx(one, abs=0.2)
    texts = [text.text for text in picture.findall(f"{SVG}text")]
    assert {"slower (stock & co)", "faster (stock & co)", "0.5", "30"} <= set(texts)
