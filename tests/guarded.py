"""What several threads share is touched only under its lock: a way to see it without a race."""

from collections import deque
from collections.abc import Iterator
from threading import Lock
from typing import Any

CONTAINERS = (dict, set, list, deque)


class Guarded:
    """A container that fails whoever touches it without `lock`."""

    def __init__(self, content: Any, lock: Any) -> None:
        self._content, self._lock = content, lock

    def _checked(self) -> Any:
        assert self._lock.locked(), "touched without the lock"
        return self._content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._checked(), name)

    def __getitem__(self, key: Any) -> Any:
        return self._checked()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._checked()[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._checked()[key]

    def __contains__(self, key: Any) -> bool:
        return key in self._checked()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._checked())

    def __len__(self) -> int:
        return len(self._checked())


def guard(owner: Any, lock: str = "_lock") -> list[str]:
    """From now on every container of `owner` fails whoever touches it without its lock; returns their names."""
    held = getattr(owner, lock)
    assert isinstance(held, type(Lock()))
    guarded = [name for name, value in vars(owner).items() if isinstance(value, CONTAINERS)]
    for name in guarded:
        setattr(owner, name, Guarded(getattr(owner, name), held))
    return guarded
