"""Answers that are read later: how several requests share one round trip.

The other end works through requests one after another, so whatever was asked is answered in that order.  Pure.
Tested in test_pipeline.py.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from hook.errors import RemoteError

Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)


class Answer(Generic[Value_co]):
    """What a request is answered with, as soon as somebody wants to know."""

    def __init__(self, pipeline: "Pipeline", read: Callable[[], Value_co]) -> None:
        self._pipeline = pipeline
        self._read = read
        self._value: list[Value_co] = []
        self._error: RemoteError | None = None

    def get(self) -> Value_co:
        """The answer, waiting for it if need be; RemoteError if the other end refused the request.

        What was asked before is read on the way, and kept for whoever asked.
        """
        while not self._value:
            if self._error is not None:
                raise self._error
            self._pipeline.read_next()
        return self._value[0]

    def read(self) -> None:
        """Take the answer, which is next on the connection."""
        try:
            self._value.append(self._read())
        except RemoteError as error:
            self._error = error


class Pipeline:
    """The requests of one connection whose answers were not read yet."""

    def __init__(self) -> None:
        self._due: deque[Answer[Any]] = deque()

    @property
    def empty(self) -> bool:
        """Whether everything that was asked is answered."""
        return not self._due

    def expect(self, read: Callable[[], Value]) -> Answer[Value]:
        """The answer to the request sent last; `read` takes it from the connection."""
        answer = Answer(self, read)
        self._due.append(answer)
        return answer

    def read_next(self) -> None:
        """Read the answer that is due next."""
        self._due.popleft().read()


def answered(value: Value) -> Answer[Value]:
    """The answer to what need not be asked."""
    answer = Answer(Pipeline(), lambda: value)
    answer.read()
    return answer
