"""References first: an import in any other order is refused by every store."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.closure import references_first
from hook.errors import StoreError
from hook.store.info import PathInfo


def info(path: str, *references: str) -> PathInfo:
    return PathInfo(path, None, bytes(32), 8, tuple(references))


@given(st.lists(st.lists(st.integers(0, 30), max_size=5), max_size=30), st.randoms())
def test_every_path_comes_after_what_it_refers_to(edges: list[list[int]], random) -> None:  # type: ignore[no-untyped-def]
    """Random graphs without cycles: path i refers only to paths below i, and perhaps to itself."""
    infos = [info(f"p{i:02}", *sorted({f"p{e:02}" for e in refs if e <= i})) for i, refs in enumerate(edges)]
    random.shuffle(infos)
    ordered = references_first(infos)
    position = {entry.path: index for index, entry in enumerate(ordered)}
    assert sorted(position) == sorted(entry.path for entry in infos)
    for entry in ordered:
        assert all(position[r] < position[entry.path] for r in entry.references if r != entry.path and r in position)


def test_a_chain_of_ten_thousand_needs_no_deep_stack() -> None:
    """Recursion would fail at Python's limit, on somebody's real closure."""
    chain = [info("p00000"), *(info(f"p{i:05}", f"p{i - 1:05}") for i in range(1, 10_000))]
    assert [entry.path for entry in references_first(reversed(chain))] == [entry.path for entry in chain]


def test_a_cycle_is_named() -> None:
    """No store can register it."""
    with pytest.raises(StoreError, match="cycle"):
        references_first([info("a", "b"), info("b", "a")])


def test_references_outside_the_set_do_not_matter() -> None:
    """They are valid on the other side already."""
    assert [entry.path for entry in references_first([info("a", "elsewhere")])] == ["a"]
