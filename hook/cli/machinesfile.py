"""Change one machine in a file of `builders`, and leave every other line and comment as it is.

Tested in test_machinesfile.py.
"""

import os
import re

from hook.cli.change import Change, read_text
from hook.errors import FerryError


def file_of(builders: str) -> str | None:
    """The first file that the setting `builders` names; None if it names none."""
    items = (item.partition("#")[0].strip() for item in re.split("[\n;]", builders))
    return next((item[1:].strip() for item in items if item.startswith("@")), None)


def place_of(origin: str) -> tuple[str, int]:
    """File and line of a machine, from where it was read.  FerryError if that was no file."""
    path, colon, number = origin.rpartition(":")
    if not colon:
        raise FerryError("it is not in a file but in 'builders' itself: change it in nix.conf")
    return path, int(number)


def addition(path: str, line: str) -> Change:
    """One more line at the end of `path`."""
    before = read_text(path)
    return Change(path, before, with_line(before or "", line))


def replacement(origin: str, machine: str, line: str) -> Change:
    """`line` in the place of `machine`, which was read from `origin`."""
    path, number = place_of(origin)
    before = read_text(path)
    return Change(path, before, with_replaced(before or "", number, machine, line))


def removal(origin: str, machine: str) -> Change:
    """No `machine`, which was read from `origin`."""
    path, number = place_of(origin)
    before = read_text(path)
    return Change(path, before, without(before or "", number, machine))


def refuse_made(path: str) -> None:
    """FerryError if `path` is not there to be changed."""
    if os.path.realpath(path).startswith("/nix/store/"):
        raise FerryError(f"'{path}' is made by NixOS; change 'nix.buildMachines' in its configuration instead")


def with_line(text: str, line: str) -> str:
    """`text` with one more line."""
    return text + ("\n" if text and not text.endswith("\n") else "") + line + "\n"


def with_replaced(text: str, number: int, machine: str, line: str) -> str:
    """`text` with `line` in the place of `machine`, as it is written in line `number`, counted from 1."""
    lines = text.split("\n")
    start, end = _find(lines[number - 1], machine)
    lines[number - 1] = lines[number - 1][:start] + line + lines[number - 1][end:]
    return "\n".join(lines)


def without(text: str, number: int, machine: str) -> str:
    """`text` without `machine`, and without its line if there is no other machine in it."""
    lines = text.split("\n")
    line = lines[number - 1]
    start, end = _find(line, machine)
    before, after = line[:start].rstrip(" \t;"), line[end:].lstrip(" \t\r")
    if after.startswith(";"):
        after = after[1:].lstrip(" \t\r")
    if not before and (not after or after.startswith("#")):
        del lines[number - 1]
    else:
        separator = "" if not before or not after else " " if after.startswith("#") else " ; "
        lines[number - 1] = before + separator + after
    return "\n".join(lines)


def _find(line: str, machine: str) -> tuple[int, int]:
    """Where in `line` that machine is."""
    found = re.search(rf"(?:^|;)\s*({re.escape(machine)})\s*(?=$|;|#)", line)
    if found is None:
        raise FerryError(f"'{machine}' is not where it was a moment ago; try again")
    return found.span(1)
