"""What may become a line of a machines file; everything else of `machine add` is in tests/lab/test_add.py."""

import os
from pathlib import Path

import pytest

from hook.cli.here import Here
from hook.cli.machine.add import Adding, Wanted
from hook.errors import FerryError
from hook.values.settings import Settings


def adding(directory: Path, target: str, key: str) -> Adding:
    here = Here((), {"NIX_STATE_DIR": str(directory), "NIX_CONF_DIR": str(directory)})
    here.settings = Settings({"builders": f"@{directory}/machines", "store": "auto", "system": "x86_64-linux"})
    return Adding(Wanted(target, key, None, True, False), here)


@pytest.mark.parametrize("end", [" ", "\n", "\r", "\t", "#", ";", "\u00a0", "\u2028", "\ufeff", "\udcff"], ids=ascii)
@pytest.mark.parametrize("where", ["key", "target"])
def test_one_line_is_one_line(where: str, end: str, tmp_path: Path) -> None:
    """What comes behind would be another machine, or another column."""
    os.chmod(tmp_path, 0o700)
    adding(tmp_path, "b1", "/key")
    word = f"/key{end}ssh-ng://evil"
    with pytest.raises(FerryError):
        adding(tmp_path, *(("b1", word) if where == "key" else (f"b1{end}ssh-ng:", "/key")))
