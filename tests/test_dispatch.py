"""The queue for slots: in order, nothing lost, and a thousand waiting builds cost no more than one."""

import os
import random
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from hook.caller import Caller
from hook.dispatch import SlotQueue
from hook.errors import Cancelled


class Client:
    """A caller whose end the test holds."""

    def __init__(self) -> None:
        self.hangup, self.end = os.pipe()
        self.caller = replace(Caller.of_this_process("3"), hangup_fd=self.hangup)

    def hang_up(self) -> None:
        if self.end >= 0:
            os.close(self.end)
            self.end = -1

    def close(self) -> None:
        self.hang_up()
        os.close(self.hangup)


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    made = [Client() for _ in range(3)]
    yield made
    for client in made:
        client.close()


def has_news(ticket: int) -> bool:
    try:
        os.eventfd_read(ticket)
    except BlockingIOError:
        return False
    return True


def test_a_freed_slot_wakes_the_first_and_nobody_else() -> None:
    """Two hundred builds that all woke up for one slot would do nothing else."""
    queue = SlotQueue()
    with queue.joined() as first, queue.joined() as second:
        queue.freed()
        assert has_news(first)
        assert not has_news(second)


def test_news_that_the_first_cannot_use_is_passed_on() -> None:
    """The freed machine lacks a feature that only the first build needs."""
    queue = SlotQueue()
    with queue.joined() as first, queue.joined() as second, queue.joined() as third:
        queue.freed()
        assert has_news(first)
        queue.pass_on(first)
        assert has_news(second)
        assert not has_news(third)


def test_when_the_first_leaves_the_next_one_looks() -> None:
    """Whether it took a slot or gave up: news that reached only the first must not be lost with it."""
    queue = SlotQueue()
    first = queue.joined()
    first.__enter__()
    with queue.joined() as second:
        queue.freed()
        assert not has_news(second)
        first.__exit__(None, None, None)
        assert has_news(second)


def test_one_that_leaves_from_the_middle_wakes_nobody() -> None:
    """Nothing has changed for the others."""
    queue = SlotQueue()
    with queue.joined() as first:
        with queue.joined():
            pass
        assert not has_news(first)


def test_waiting_ends_when_nix_gives_up(clients: list[Client]) -> None:
    """First in the queue or not."""
    queue = SlotQueue()
    with queue.joined(), queue.joined() as second:
        clients[0].hang_up()
        with pytest.raises(Cancelled):
            queue.wait(second, clients[0].caller)


def test_the_first_looks_again_by_itself(clients: list[Client]) -> None:
    """Slots of stock hooks are freed without a word."""
    queue = SlotQueue()
    with queue.joined() as first:
        queue.wait(first, clients[0].caller)


def test_under_any_schedule_every_build_gets_its_slot(clients: list[Client]) -> None:
    """Forty builds, three slots, two kinds of machine; a wake-up that got lost would leave somebody waiting."""
    queue = SlotQueue()
    lock = threading.Lock()
    free = {"a": 2, "b": 1}
    done = []

    def take(kind: str) -> bool:
        with lock:
            if free[kind]:
                free[kind] -= 1
                return True
            return False

    def build(number: int) -> None:
        kind = random.Random(number).choice(["a", "b"])
        with queue.joined() as ticket:
            while not take(kind):
                queue.pass_on(ticket)
                queue.wait(ticket, clients[0].caller)
        with lock:
            done.append(number)
            free[kind] += 1
        queue.freed()

    threads = [threading.Thread(target=build, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert sorted(done) == list(range(40))
