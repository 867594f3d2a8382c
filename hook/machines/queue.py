"""Builds that wait for a slot, in the order of their arrival.

Builds of one kind, which are those that any slot suits alike, stand in one line; those of them that have their inputs
at a machine already stand in a line of their own there, whose machine is kept for them.  Only the first of a line looks
for slots, when one was freed here and now and then for those that other processes freed; so a thousand waiting builds
cost no more than one.  Tested in machines/test_queue.py.
"""

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from hook.front.caller import Caller
from hook.machines.identity import QueueOf, SlotsOf

LOOK_S = 0.5
"""How often the first of a line looks for slots without being woken."""


class SlotQueue:
    """Lines by kind; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[tuple[QueueOf, SlotsOf | None], deque[int]] = {}

    @contextmanager
    def first(self, kind: QueueOf, caller: Caller, at: SlotsOf | None = None) -> Iterator[int]:
        """Wait to be the first of `kind`, and be it for the block; yields a ticket for `wait`.

        `at` is the machine where the build's inputs are, if any.  Cancelled if the caller goes away meanwhile.
        """
        name = kind, at
        ticket = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        with self._lock:
            line = self._lines.setdefault(name, deque())
            line.append(ticket)
        try:
            while not self._is_first(name, ticket):
                self._wait(ticket, caller, None)
            yield ticket
        finally:
            with self._lock:
                was_first = line[0] == ticket
                line.remove(ticket)
                if not line:
                    del self._lines[name]
                elif was_first:
                    # It has never looked, and a slot more may have been freed than the last one took.
                    os.eventfd_write(line[0], 1)
            os.close(ticket)

    def wait(self, ticket: int, caller: Caller) -> None:
        """Wait until a slot was freed, or until it is time to look anyway; Cancelled if the caller goes away."""
        self._wait(ticket, caller, LOOK_S)

    def anywhere(self, kind: QueueOf) -> bool:
        """Whether a build of `kind` waits that has its inputs nowhere yet."""
        with self._lock:
            return (kind, None) in self._lines

    def awaited(self, machine: SlotsOf) -> bool:
        """Whether a build waits that has its inputs at `machine`."""
        with self._lock:
            return any(at == machine for _, at in self._lines)

    def freed(self) -> None:
        """There may be something to take: have the first of every line look."""
        with self._lock:
            for line in self._lines.values():
                os.eventfd_write(line[0], 1)

    def _is_first(self, name: tuple[QueueOf, SlotsOf | None], ticket: int) -> bool:
        with self._lock:
            return self._lines[name][0] == ticket

    def _wait(self, ticket: int, caller: Caller, seconds: float | None) -> None:
        if caller.wait_for(ticket, seconds):
            os.eventfd_read(ticket)
