"""Put store paths into an order in which they can be added: references first.

Pure; tested in test_closure.py.
"""

from array import array
from collections.abc import Iterable

from hook.errors import StoreError

_UNSEEN, _OPEN, _DONE = range(3)


def references_first(paths: Iterable[str], references: Iterable[tuple[str, Iterable[str]]]) -> list[str]:
    """Sort `paths` so that each comes after those it refers to, as far as they are among them.

    `references` tells of each path once, in any order, what it refers to.  Self references do not count.  Paths that do
    not depend on each other keep their order by path, so that the same set always gives the same sequence.  Iterative:
    a chain may be as long as the set.  Of a reference, four bytes are kept.
    """
    ordered = sorted(paths)
    numbers = {path: number for number, path in enumerate(ordered)}
    targets = array("I")
    following = array("I", bytes(4 * len(ordered)))  # of each path's targets, the one to look at next
    ends = array("I", bytes(4 * len(ordered)))
    for path, referred in references:
        number = numbers[path]
        following[number] = len(targets)
        targets.extend(sorted([numbers[reference] for reference in referred if reference in numbers]))
        ends[number] = len(targets)
    del numbers
    states = bytearray(len(ordered))
    done = array("I")
    stack: list[int] = []
    for root in range(len(ordered)):
        if states[root] == _UNSEEN:
            stack.append(root)
        while stack:
            number = stack[-1]
            states[number] = _OPEN
            for place in range(following[number], ends[number]):
                reference = targets[place]
                if states[reference] == _UNSEEN:
                    following[number] = place + 1
                    stack.append(reference)
                    break
                if states[reference] == _OPEN and reference != number:
                    raise StoreError(f"cycle detected in the references of '{ordered[reference]}'")
            else:
                states[number] = _DONE
                done.append(stack.pop())
    return [ordered[number] for number in done]
