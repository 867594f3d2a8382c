"""References first: an import in any other order is refused by every store."""

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.errors import StoreError
from hook.values.closure import references_first


def ordered(references: dict[str, list[str]]) -> list[str]:
    """All of the paths, of which each is told what it refers to."""
    return references_first(references, references.items())


@given(st.lists(st.lists(st.integers(0, 30), max_size=5), max_size=30), st.randoms())
def test_every_path_comes_after_what_it_refers_to(edges: list[list[int]], random) -> None:  # type: ignore[no-untyped-def]
    """Random graphs without cycles: path i refers only to paths below i, and perhaps to itself."""
    graph = [(f"p{i:02}", sorted({f"p{e:02}" for e in refs if e <= i})) for i, refs in enumerate(edges)]
    random.shuffle(graph)
    order = ordered(dict(graph))
    position = {path: index for index, path in enumerate(order)}
    assert sorted(order) == sorted(path for path, _ in graph)
    for path, references in graph:
        assert all(position[r] < position[path] for r in references if r != path and r in position)


def test_a_chain_of_ten_thousand_needs_no_deep_stack() -> None:
    """Recursion would fail at Python's limit, on somebody's real closure."""
    links = [f"p{i:05}" for i in range(10_000)]
    for chain in (links, links[::-1]):
        references = {link: [before] for before, link in itertools.pairwise(chain)}
        assert ordered({chain[0]: [], **references}) == chain


def test_what_refers_to_what_takes_little_memory() -> None:
    """A build may have a hundred thousand inputs, most of which refer to several others."""
    paths = [f"p{i:05}" for i in range(5_000)]
    told = ((path, (f"p{at - step:05}" for step in range(1, 9) if at >= step)) for at, path in enumerate(paths))
    tracemalloc.start()
    try:
        assert references_first(paths, told) == paths
        assert tracemalloc.get_traced_memory()[1] <= 120 * len(paths)
    finally:
        tracemalloc.stop()


def test_a_cycle_is_named() -> None:
    """No store can register it."""
    with pytest.raises(StoreError, match="cycle"):
        ordered({"a": ["b"], "b": ["a"]})


def test_references_outside_the_set_do_not_matter() -> None:
    """They are valid on the other side already."""
    assert ordered({"a": ["elsewhere"]}) == ["a"]
