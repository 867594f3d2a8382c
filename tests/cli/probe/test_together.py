"""Machines that are asked at once, each of which may take its time."""

import threading

import pytest

from hook.cli.probe.together import at_once


def test_all_are_asked_at_once_and_found_in_their_order() -> None:
    """One that does not answer must not keep the others from being asked: each waits until all are there."""
    together = threading.Barrier(20)

    def ask(number: int) -> int:
        together.wait(60)
        return number * number

    assert at_once(ask, range(20)) == [number * number for number in range(20)]


def test_nobody_is_asked_where_there_is_nobody() -> None:
    """A host without machines has commands, too."""
    assert at_once(pytest.fail, []) == []


def test_an_error_is_passed_on_when_all_have_ended() -> None:
    """Nothing goes on behind the back of who asked."""
    ended = []

    def ask(number: int) -> None:
        if number == 0:
            raise ValueError(number)
        ended.append(number)

    with pytest.raises(ValueError, match="0"):
        at_once(ask, range(3))
    assert sorted(ended) == [1, 2]
