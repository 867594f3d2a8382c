"""A line of ours in a file of somebody else: there, once, last, and gone without a trace."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.cli.install.confline import ADDED, CREATED, JOINED, with_line, without_line

LINE = "build-hook = /opt/bin/nix-ferry-hook"

texts = st.none() | st.text(alphabet="ab #=\n\r\x0c\u2028", max_size=20)


@given(texts)
def test_what_was_there_comes_back(text: str | None) -> None:
    """Byte for byte, whether it had a last newline, was empty, or was not there at all."""
    assert without_line(with_line(text, LINE)) == text


@given(texts)
def test_a_second_time_changes_nothing(text: str | None) -> None:
    once = with_line(text, LINE)
    assert with_line(once, LINE) == once
    assert without_line(without_line(once) or "") == (text or "")


@given(texts)
def test_the_line_is_the_last(text: str | None) -> None:
    """Of several, and of included files, Nix takes what it reads last."""
    assert with_line(text, LINE).split("\n")[-2:] == [LINE, ""]


@pytest.mark.parametrize("before", [None, "", "cores = 2\n", "cores = 2"])
def test_what_others_added_meanwhile_stays(before: str | None) -> None:
    """Above or below, each on a line of its own."""
    written = "jobs = 1\n" + with_line(before, LINE) + "later = 1\n"
    left = without_line(written)
    assert left == "jobs = 1\n" + (f"{before}\n".replace("\n\n", "\n") if before else "") + "later = 1\n"
    assert with_line(written, "build-hook = /x").endswith("\nbuild-hook = /x\n")


@pytest.mark.parametrize("mark", [ADDED, JOINED, CREATED])
def test_what_took_the_place_of_the_line_stays(mark: str) -> None:
    """Only the comment is certainly ours then."""
    assert without_line(f"a = 1\n{mark}\nb = 1\n") == "a = 1\nb = 1\n"
