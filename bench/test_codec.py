"""Lists of store paths next to plain Python."""

import random

from hook.protocol.lists import encode_strings
from hook.protocol.wire import Reader
from tests.fakes.source import BytesSource
from tests.oracles import Input, strings

PATHS = 2000
AGAIN = 20
"""Runs in one sample: a single one is too short to time."""


def store_paths() -> list[bytes]:
    names = random.Random(1)
    return [
        b"/nix/store/%s-package-%d" % (bytes(names.choices(b"0123456789abcdfghijklmnpqrsvwxyz", k=32)), number)
        for number in range(PATHS)
    ]


def repeated(call):
    def run() -> None:
        for _ in range(AGAIN):
            call()

    return run


def test_encode(compare):
    paths = store_paths()
    assert encode_strings(paths) == strings(paths)
    compare(
        "codec-encode",
        {"plain Python": repeated(lambda: strings(paths)), "ferry": repeated(lambda: encode_strings(paths))},
        rounds=25,
    )


def test_decode(compare):
    encoded = strings(store_paths())
    assert Reader(BytesSource(encoded)).texts() == [path.decode() for path in store_paths()]
    compare(
        "codec-decode",
        {
            "plain Python": repeated(lambda: Input(encoded).strings(4096, PATHS)),
            "ferry": repeated(lambda: Reader(BytesSource(encoded)).texts()),
        },
        rounds=25,
    )
