"""Lists of store paths next to plain Python."""

import random

from hook.protocol.lists import append_strings
from hook.protocol.wire import Reader
from tests.oracles import Input, strings

PATHS = 2000
AGAIN = 20
"""Runs in one sample: a single one is too short to time."""


def store_paths() -> list[str]:
    names = random.Random(1)
    return [
        f"/nix/store/{''.join(names.choices('0123456789abcdfghijklmnpqrsvwxyz', k=32))}-package-{number}"
        for number in range(PATHS)
    ]


class Arrived:
    """All of a list, in a buffer like that of a connection, from which nothing needs to be copied."""

    def __init__(self, data: bytes) -> None:
        self._left = memoryview(data)

    def read(self, size: int) -> bytes:
        data = bytes(self._left[:size])
        self.consume(size)
        return data

    def peek(self) -> memoryview:
        return self._left

    def consume(self, size: int) -> None:
        self._left = self._left[size:]


def repeated(call):
    def run() -> None:
        for _ in range(AGAIN):
            call()

    return run


def test_encode(compare):
    paths = store_paths()

    def plain() -> bytes:
        return strings(path.encode() for path in paths)

    def ours() -> bytearray:
        append_strings(out := bytearray(), paths)
        return out

    assert ours() == plain()
    sides = {"plain Python": repeated(plain), "ferry": repeated(ours)}
    compare("codec-encode", sides, rounds=25)


def test_decode(compare):
    paths = store_paths()
    encoded = strings(path.encode() for path in paths)

    def plain() -> list[str]:
        return [path.decode() for path in Input(encoded).strings(4096, PATHS)]

    def ours() -> list[str]:
        return Reader(Arrived(encoded)).texts()

    assert ours() == plain() == paths
    compare("codec-decode", {"plain Python": repeated(plain), "ferry": repeated(ours)}, rounds=25)
