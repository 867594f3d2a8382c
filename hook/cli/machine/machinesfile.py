"""Change one machine in a file of `builders`, and leave every other line and comment as it is.

Tested in test_machinesfile.py.
"""

import os
import re

from hook.cli.change import Change
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
    return Change.of(path, lambda text: with_line(text or "", line))


def without_last(change: Change) -> Change:
    """The opposite of `change`, which is an `addition`."""
    line = (change.after or "").splitlines()[-1]

    def edit(text: str | None) -> str | None:
        lines = (text or "").split("\n")
        if line in lines:
            lines.remove(line)
        left = "\n".join(lines)
        return left if left or change.before is not None else None

    return Change.of(change.path, edit)


def taken_back(change: Change, line: str, machine: str | None) -> Change:
    """The opposite of `change`, which has put `line` there in place of `machine`; None if it has added it."""

    def edit(text: str | None) -> str | None:
        if machine is not None:
            return with_replaced(text or "", 0, line, machine)
        left = without(text or "", 0, line)
        return left if left or change.before is not None else None

    return Change.of(change.path, edit)


def replacement(origin: str, machine: str, line: str) -> Change:
    """`line` in the place of `machine`, which was read from `origin`."""
    path, number = place_of(origin)
    return Change.of(path, lambda text: with_replaced(text or "", number, machine, line))


def removal(origin: str, machine: str) -> Change:
    """No `machine`, which was read from `origin`."""
    path, number = place_of(origin)
    return Change.of(path, lambda text: without(text or "", number, machine))


def refuse_made(path: str) -> None:
    """FerryError if `path` is not there to be changed."""
    if os.path.realpath(path).startswith("/nix/store/"):
        raise FerryError(f"'{path}' is made by NixOS; change 'nix.buildMachines' in its configuration instead")


def with_line(text: str, line: str) -> str:
    """`text` with one more line."""
    return text + ("\n" if text and not text.endswith("\n") else "") + line + "\n"


def with_replaced(text: str, number: int, machine: str, line: str) -> str:
    """`text` with `line` in the place of `machine`, which is written in line `number`, counted from 1, or elsewhere."""
    lines = text.split("\n")
    index, start, end = _find(lines, number, machine)
    lines[index] = lines[index][:start] + line + lines[index][end:]
    return "\n".join(lines)


def without(text: str, number: int, machine: str) -> str:
    """`text` without `machine`, and without its line if there is no other machine in it."""
    lines = text.split("\n")
    index, start, end = _find(lines, number, machine)
    line = lines[index]
    before, after = line[:start].rstrip(" \t;"), line[end:].lstrip(" \t\r")
    if after.startswith(";"):
        after = after[1:].lstrip(" \t\r")
    if not before and (not after or after.startswith("#")):
        del lines[index]
    else:
        separator = "" if not before or not after else " " if after.startswith("#") else " ; "
        lines[index] = before + separator + after
    return "\n".join(lines)


def _find(lines: list[str], number: int, machine: str) -> tuple[int, int, int]:
    """Where that machine is: the index of its line, and from where to where it is there.

    Looked for in line `number` first; somebody else may have moved it.
    """
    for index in sorted(range(len(lines)), key=lambda index: index != number - 1):
        if found := re.search(rf"(?:^|;)\s*({re.escape(machine)})\s*(?=$|;|#)", lines[index].partition("#")[0] + "#"):
            return index, *found.span(1)
    raise FerryError(f"'{machine}' is not in the file any more; try again")
