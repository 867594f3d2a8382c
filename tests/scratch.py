"""Throwaway places, and whole NARs in one call there, for the tests of dump and restore."""

import contextlib
import hashlib
import itertools
import tempfile
from collections.abc import Iterator

from hook.store.nar import Dumper, Restorer
from hook.store.remove import remove_tree
from tests.oracles import Tree, nar, string


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """A directory that goes away with everything in it, however deep and however read-only."""
    path = tempfile.mkdtemp()
    try:
        yield path
    finally:
        remove_tree(path)


def read_all(dumper: Dumper, buffer: bytearray) -> bytes:
    out = bytearray()
    while size := dumper.read_into(buffer):
        out += buffer[:size]
    return bytes(out)


def dump(path: str, buffer_bytes: int = 1 << 16, max_depth: int | None = None) -> bytes:
    buffer = bytearray(buffer_bytes)
    with Dumper(path, max_depth) as dumper:
        out = read_all(dumper, buffer)
        assert dumper.read_into(buffer) == 0
        assert dumper.size == len(out)
        assert dumper.digest() == hashlib.sha256(out).digest()
    return out


def restore(data: bytes, dest: str, cuts: list[int] | None = None, max_depth: int | None = None) -> int:
    """Feed `data`, cut at `cuts`; the number of bytes consumed, all of them if the NAR did not end."""
    edges = [0, *sorted(cut for cut in cuts or [] if cut < len(data)), len(data)]
    with Restorer(dest, max_depth=max_depth) as restorer:
        for start, end in itertools.pairwise(edges):
            consumed = restorer.feed(memoryview(data)[start:end])
            if restorer.done:
                break
            assert consumed == end - start
        if restorer.done:
            assert restorer.feed(b"more") == 0
            assert restorer.digest() == hashlib.sha256(data[: restorer.size]).digest()
        return restorer.size


def nested(levels: int, inside: bytes) -> bytes:
    """The NAR of `levels` directories called d, around a node."""
    opening = string(b"(") + string(b"type") + string(b"directory") + string(b"entry") + string(b"(")
    opening += string(b"name") + string(b"d") + string(b"node")
    return string(b"nix-archive-1") + opening * levels + inside + string(b")") * 2 * levels


def node(tree: Tree) -> bytes:
    return nar(tree)[len(string(b"nix-archive-1")) :]
