"""What is known of a machine's store: no more than was said, not for ever, and never too much of it."""

from hook import known as known_module
from hook.known import RENEW_S, KnownPaths


class Clock:
    """A time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_was_said_is_known_until_it_is_forgotten() -> None:
    known = KnownPaths(Clock())
    assert known.unknown(["a", "b"]) == {"a", "b"}
    known.add(["a", "b"])
    assert known.unknown(["a", "c"]) == {"c"}
    known.forget()
    assert known.unknown(["a", "c"]) == {"a", "c"}


def test_knowledge_expires_unless_it_is_confirmed() -> None:
    """A machine that is never idle may collect its garbage, too."""
    clock = Clock()
    known = KnownPaths(clock)
    known.add(["once", "again"])
    clock.now += RENEW_S
    assert known.unknown(["once", "again"]) == set()
    known.add(["again"])
    clock.now += RENEW_S
    assert known.unknown(["once", "again"]) == {"once"}
    clock.now += 2 * RENEW_S
    assert known.unknown(["again"]) == {"again"}


def test_memory_is_bounded_and_what_was_said_last_stays(monkeypatch) -> None:
    """A broker may live for months."""
    monkeypatch.setattr(known_module, "MOST_PATHS", 10)
    known = KnownPaths(Clock())
    for number in range(95):
        known.add([str(number)])
    kept = {str(number) for number in range(95)} - known.unknown(map(str, range(95)))
    assert len(kept) <= 20
    assert kept >= {str(number) for number in range(85, 95)}
