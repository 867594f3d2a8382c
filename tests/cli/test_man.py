"""What is written of nix-ferry is what it does: pages and tables are made from the program, and were made anew."""

import re
from pathlib import Path

import pytest

from man.make import HERE, README, command_page, pages

PAGES = sorted(HERE.glob("*.[158]"))


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_what_is_made_is_up_to_date(path: Path) -> None:
    assert path.read_text() == pages()[path], "run `make man`"


@pytest.mark.parametrize("name", ["doctor", "install", "machine list"])
def test_every_command_is_in_the_manual(name: str) -> None:
    """Those in groups by their whole name."""
    assert re.search(rf"^\.SS nix\\-ferry {name}\b", "\n".join(command_page()), re.MULTILINE)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_has_only_what_troff_understands(path: Path) -> None:
    """Macros that exist, no control line by accident, and no backslash but in an escape that is used here."""
    macros = {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".I", ".IR", ".BR", ".RI", ".nf", ".fi", '.\\"'}
    for line in path.read_text().splitlines():
        assert line.isascii()
        assert re.fullmatch(r"(?:[^\\]|\\[-&e\"]|\\f[BIR])*", line)
        if line.startswith((".", "'")):
            assert line.split()[0] in macros


def test_the_numbers_on_top_are_those_below() -> None:
    """The README begins with some of what it measured; a row that is measured anew has to be taken there, too."""
    text = README.read_text()
    why, numbers = (text.split(f"## {title}\n")[1].split("\n## ")[0] for title in ("Why", "Numbers"))
    rows = [row.split(" | ", 1)[1] for row in why.splitlines() if row.startswith("| ")][1:]
    assert len(rows) >= 3
    for row in rows:
        assert f"| {row.removesuffix(' |')} | " in numbers, "take the row that was measured anew into 'Why', too"
