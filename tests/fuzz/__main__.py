"""Fuzz one target, guided by coverage: `python -m tests.fuzz TARGET [CORPUS…] [OPTION…]`; options are libFuzzer's.

Needs atheris.  Begins with what was recorded of real conversations, and with the corpus that is kept.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["hook"]):
    from tests.fuzz.targets import TARGETS

from tests.fuzz.corpus import kept, recorded


def main() -> None:
    """Run until the time is over, or something is found."""
    name, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as seeds:
        for number, data in enumerate([*recorded(name), *kept(name)]):
            Path(seeds, str(number)).write_bytes(data)
        atheris.Setup([sys.argv[0], *options, seeds], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
