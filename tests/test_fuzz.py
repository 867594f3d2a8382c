"""Bytes of others never cause an error that nobody expects.  Guided by coverage: `make fuzz`."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.corpus import kept, recorded
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_what_was_recorded_and_what_once_failed(target: str) -> None:
    for data in [*recorded(target), *kept(target)]:
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
@given(st.data())
@settings(max_examples=50)
def test_something_else_in_the_middle_of_what_was_recorded(target: str, data: st.DataObject) -> None:
    """Cut, and with other bytes in place of some."""
    whole = data.draw(st.sampled_from(list(recorded(target))))
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 16)))
    other = data.draw(st.one_of(st.binary(max_size=16), st.sampled_from([b"\xff" * 8, bytes(8)])))
    TARGETS[target](whole[:start] + other + whole[end:])
