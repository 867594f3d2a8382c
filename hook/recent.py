"""A dictionary with a bound: of very many keys, the ones that were put first are forgotten.

For what a broker remembers of things that others name.  Not thread-safe by itself.  Tested in test_recent.py.
"""

from collections.abc import Hashable
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(dict[Key, Value]):
    """At most `most` entries, as long as they are added by `put`."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def put(self, key: Key, value: Value) -> Value:
        """Set the value of `key`, which is the most recent one from now on; returns `value`."""
        self.pop(key, None)
        while len(self) >= self._most:
            del self[next(iter(self))]
        self[key] = value
        return value
