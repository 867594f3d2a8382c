"""Put store paths into an order in which they can be added: references first.

Pure; tested in test_closure.py.
"""

from collections.abc import Iterable, Iterator

from hook.errors import StoreError
from hook.store.info import PathInfo


def references_first(infos: Iterable[PathInfo]) -> list[PathInfo]:
    """Sort so that every path comes after those it refers to, as far as they are among `infos`.

    Self references do not count.  Paths that do not depend on each other keep their order by path, so that the
    same set always gives the same sequence.  Iterative: a chain may be as long as the set.
    """
    by_path = {info.path: info for info in sorted(infos, key=lambda info: info.path)}
    done: dict[str, PathInfo] = {}
    for root, info in by_path.items():
        if root in done:
            continue
        open_paths = {root}
        stack: list[tuple[str, Iterator[str]]] = [(root, iter(info.references))]
        while stack:
            path, references = stack[-1]
            for reference in references:
                if reference == path or reference in done or reference not in by_path:
                    continue
                if reference in open_paths:
                    raise StoreError(f"cycle detected in the references of '{reference}'")
                open_paths.add(reference)
                stack.append((reference, iter(by_path[reference].references)))
                break
            else:
                stack.pop()
                open_paths.discard(path)
                done[path] = by_path[path]
    return list(done.values())
