"""What is known of a machine's store: no more than was said, not for ever, and never too much of it."""

import pytest

from hook.remote import known as known_module
from hook.remote.known import RENEW_S, KnownPaths


class Clock:
    """A time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_was_said_is_known_until_it_is_forgotten() -> None:
    known = KnownPaths(Clock())
    assert known.unknown(["a", "b"]) == ["a", "b"]
    known.add(["a", "b"])
    assert known.unknown(["a", "c"]) == ["c"]
    known.forget()
    assert known.unknown(["a", "c"]) == ["a", "c"]


def test_knowledge_expires_unless_it_is_confirmed() -> None:
    """A machine that is never idle may collect its garbage, too."""
    clock = Clock()
    known = KnownPaths(clock)
    known.add(["once", "again"])
    clock.now += RENEW_S
    assert known.unknown(["once", "again"]) == []
    known.add(["again"])
    clock.now += RENEW_S
    assert known.unknown(["once", "again"]) == ["once"]
    clock.now += 2 * RENEW_S
    assert known.unknown(["again"]) == ["again"]


@pytest.mark.parametrize("at_once", [1, 7, 95])
def test_memory_is_bounded_and_what_was_said_last_stays(at_once: int, monkeypatch) -> None:
    """A broker may live for months, and a closure be larger than all that is kept."""
    monkeypatch.setattr(known_module, "MOST_PATHS", 10)
    known = KnownPaths(Clock())
    numbers = [str(number) for number in range(95)]
    for start in range(0, 95, at_once):
        known.add(numbers[start : start + at_once])
    kept = set(numbers) - set(known.unknown(numbers))
    assert len(kept) <= 20
    assert kept >= {str(number) for number in range(85, 95)}
