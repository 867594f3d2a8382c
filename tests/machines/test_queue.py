"""The queue for slots: in order, nothing lost, and a thousand waiting builds cost no more than one."""

import os
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from hook.errors import Cancelled
from hook.front.caller import Caller
from hook.machines import queue as slotqueue
from hook.machines.queue import SlotQueue

TIMEOUT_S = 30


class Client:
    """A caller whose end the test holds."""

    def __init__(self) -> None:
        self.hangup, self.end = os.pipe()
        self.caller = Caller(-1, -1, -1, "3", {}, os.getpid(), self.hangup)

    def hang_up(self) -> None:
        if self.end >= 0:
            os.close(self.end)
            self.end = -1

    def close(self) -> None:
        self.hang_up()
        os.close(self.hangup)


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


@pytest.fixture
def only_when_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks by itself: a wake-up that is lost is never made good."""
    monkeypatch.setattr(slotqueue, "LOOK_S", None)


def has_news(ticket: int) -> bool:
    try:
        os.eventfd_read(ticket)
    except BlockingIOError:
        return False
    return True


def test_a_freed_slot_is_news_for_the_first_of_every_kind(client: Client) -> None:
    """It may be of a machine that only some of them can use."""
    queue = SlotQueue()
    with queue.first("x86", client.caller) as one, queue.first("arm", client.caller) as other:
        queue.freed()
        assert has_news(one)
        assert has_news(other)
        assert not has_news(one)


def test_builds_of_one_kind_go_one_after_another(client: Client) -> None:
    """Two hundred builds that all looked for one slot would do nothing else."""
    queue = SlotQueue()
    order: list[int] = []
    first = ExitStack()
    first.enter_context(queue.first("x86", client.caller))
    threads = []

    def stand(number: int) -> None:
        with queue.first("x86", client.caller):
            order.append(number)

    for number in range(5):
        threads.append(threading.Thread(target=stand, args=(number,)))
        threads[-1].start()
        wait_for_line(queue, number + 2)
    queue.freed()
    assert order == []
    first.close()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert order == [0, 1, 2, 3, 4]


def wait_for_line(queue: SlotQueue, length: int) -> None:
    while len(queue._lines["x86", None]) < length:
        os.sched_yield()


def test_whoever_becomes_first_looks(client: Client) -> None:
    """Two slots were freed, and the one before us took one."""
    queue = SlotQueue()
    first = ExitStack()
    first.enter_context(queue.first("x86", client.caller))
    looked = threading.Event()

    def stand() -> None:
        with queue.first("x86", client.caller):
            looked.set()

    thread = threading.Thread(target=stand)
    thread.start()
    wait_for_line(queue, 2)
    queue.freed()
    first.close()
    assert looked.wait(TIMEOUT_S)
    thread.join()


@pytest.mark.parametrize("place", ["first", "behind"])
def test_waiting_ends_when_nix_gives_up(client: Client, place: str) -> None:
    """Wherever it stands; the line closes up."""
    queue = SlotQueue()
    other = Client()
    with ExitStack() as held:
        if place == "behind":
            held.enter_context(queue.first("x86", other.caller))
            client.hang_up()
            with pytest.raises(Cancelled):
                held.enter_context(queue.first("x86", client.caller))
        else:
            ticket = held.enter_context(queue.first("x86", client.caller))
            client.hang_up()
            with pytest.raises(Cancelled):
                queue.wait(ticket, client.caller)
    with queue.first("x86", other.caller):
        pass
    other.close()
    assert queue._lines == {}


def test_the_first_looks_again_by_itself(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots of stock hooks are freed without a word."""
    monkeypatch.setattr(slotqueue, "LOOK_S", 0.001)
    queue = SlotQueue()
    with queue.first("x86", client.caller) as ticket:
        queue.wait(ticket, client.caller)


class Machines:
    """Slots by kind, as a table of locks would have them; counts how often somebody looked."""

    def __init__(self, **free: int) -> None:
        self._lock = threading.Lock()
        self._free = free
        self.looks = 0

    def take(self, kind: str) -> bool:
        with self._lock:
            self.looks += 1
            if self._free[kind]:
                self._free[kind] -= 1
                return True
            return False

    def give(self, kind: str) -> None:
        with self._lock:
            self._free[kind] += 1


@pytest.mark.usefixtures("only_when_woken")
@pytest.mark.parametrize("seed", range(5))
def test_under_any_schedule_every_build_gets_its_slot(seed: int) -> None:
    """Sixty builds of two kinds, a third of them given up; a wake-up that got lost would leave somebody waiting."""
    queue = SlotQueue()
    machines = Machines(a=2, b=1)
    chance = random.Random(seed)
    clients = [Client() for _ in range(60)]
    kinds = [chance.choice("ab") for _ in clients]
    given_up = set(chance.sample(range(60), 20))
    done: set[int] = set()

    def build(number: int) -> None:
        kind, caller = kinds[number], clients[number].caller
        try:
            with queue.first(kind, caller) as ticket:
                while not machines.take(kind):
                    queue.wait(ticket, caller)
        except Cancelled:
            return
        done.add(number)
        machines.give(kind)
        queue.freed()

    threads = [threading.Thread(target=build, args=(number,)) for number in range(60)]
    chance.shuffle(threads)
    for thread in threads:
        thread.start()
    for number in given_up:
        clients[number].hang_up()
    for thread in threads:
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()
    assert done >= set(range(60)) - given_up
    assert queue._lines == {}
    for client in clients:
        client.close()


@pytest.mark.usefixtures("only_when_woken")
def test_a_long_line_looks_no_more_often_than_a_short_one(client: Client) -> None:
    """Every look takes the main lock and tries all slots of all machines."""
    queue = SlotQueue()
    machines = Machines(a=0)
    count = 200

    def build() -> None:
        with queue.first("a", client.caller) as ticket:
            while not machines.take("a"):
                queue.wait(ticket, client.caller)

    threads = [threading.Thread(target=build) for _ in range(count)]
    for thread in threads:
        thread.start()
    for _ in range(count):
        machines.give("a")
        queue.freed()
    for thread in threads:
        thread.join(TIMEOUT_S)
    # One that finds nothing and one that finds a slot.
    assert count <= machines.looks <= 3 * count
