"""Answers that are read later: each goes to whoever asked, in whatever order they want to know."""

from collections.abc import Callable

import pytest

from hook.errors import ConnectionLost, RemoteError
from hook.protocol.pipeline import Answer, Pipeline, answered


def reply(values: list[int | Exception]) -> Callable[[], int]:
    """Reads the next of `values` from the connection."""

    def read() -> int:
        value = values.pop(0)
        if isinstance(value, Exception):
            raise value
        return value

    return read


def ask(values: list[int | Exception], count: int) -> tuple[Pipeline, list[Answer[int]]]:
    pipeline = Pipeline()
    return pipeline, [pipeline.expect(reply(values)) for _ in range(count)]


def test_answers_arrive_in_the_order_of_the_requests_whoever_waits_first() -> None:
    pipeline, (first, second, third) = ask([1, 2, 3], 3)
    assert second.get() == 2
    assert not pipeline.empty
    assert (first.get(), third.get(), second.get()) == (1, 2 + 1, 2)
    assert pipeline.empty


def test_nothing_is_read_before_somebody_wants_to_know() -> None:
    """The machine may be building for hours; and after a failure nobody asks."""
    values: list[int | Exception] = [1, 2]
    pipeline, (first, _) = ask(values, 2)
    assert values == [1, 2]
    first.get()
    assert values == [2]
    assert not pipeline.empty


def test_a_refusal_meets_whoever_asked_for_it() -> None:
    """However often they ask; what was asked after it is answered all the same."""
    pipeline, (refused, other) = ask([RemoteError("no"), 2], 2)
    assert other.get() == 2
    assert pipeline.empty
    for _ in range(2):
        with pytest.raises(RemoteError, match="no"):
            refused.get()


def test_a_connection_that_breaks_meets_whoever_is_reading() -> None:
    """And is never taken for one that could be used again."""
    pipeline, (_, second, _) = ask([ConnectionLost("gone")], 3)
    with pytest.raises(ConnectionLost):
        second.get()
    assert not pipeline.empty


def test_what_need_not_be_asked_is_answered() -> None:
    assert answered(7).get() == 7
