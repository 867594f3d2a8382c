"""Change one machine in a file of `builders`, and leave every other line and comment as it is.

Tested in test_machinesfile.py.
"""

import os
import re
import tempfile

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


def read_file(path: str) -> str:
    """The text of a file of `builders`; empty if there is none."""
    try:
        # Line ends stay as they are.
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise FerryError(f"cannot read '{path}': {error.strerror}") from None


def write_file(path: str, text: str) -> None:
    """Have `path` contain `text`, at once and for whoever could read it before.  FerryError if it is not ours."""
    path = os.path.realpath(path)
    if path.startswith("/nix/store/"):
        raise FerryError(f"'{path}' is made by NixOS; change 'nix.buildMachines' in its configuration instead")
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd, partial = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".machines-")
        try:
            with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                file.write(text)
                file.flush()
                _adopt(fd, path)
                os.fsync(fd)
            os.rename(partial, path)
        except BaseException:
            os.unlink(partial)
            raise
    except OSError as error:
        advice = "; run this as root" if isinstance(error, PermissionError) else ""
        raise FerryError(f"cannot write '{path}': {error.strerror}{advice}") from None


def _adopt(fd: int, path: str) -> None:
    """Owner and mode of the file that is replaced; readable for all if there was none."""
    try:
        before = os.stat(path)
    except FileNotFoundError:
        os.fchmod(fd, 0o644)
        return
    if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(fd, before.st_uid, before.st_gid)
    os.fchmod(fd, before.st_mode & 0o7777)


def _find(line: str, machine: str) -> tuple[int, int]:
    """Where in `line` that machine is."""
    found = re.search(rf"(?:^|;)\s*({re.escape(machine)})\s*(?=$|;|#)", line)
    if found is None:
        raise FerryError(f"'{machine}' is not where it was a moment ago; try again")
    return found.span(1)
