"""What the shim does with what it is told, for fronts that have none."""

import os
from collections.abc import Callable

from hook.front.caller import Word
from hook.front.front import PLACE


def writes_to(fd: int) -> Callable[[Word, bytes], None]:
    """A caller's `tell` that writes replies."""

    def tell(word: Word, data: bytes) -> None:
        match word:
            case Word.REPLY:
                os.write(fd, data[PLACE.size :])
            case Word.ACCEPT:
                os.write(fd, data)

    return tell
