"""A change of one file that its user sees first: as a diff, then all at once or not at all.

Tested in test_install.py.
"""

import difflib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import click

from hook.errors import FerryError

yes_option = click.option("--yes", "-y", is_flag=True, help="Write without asking.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Only show what would be written.")

COLOURS = {"+": "green", "-": "red", "@": "cyan"}


@dataclass(frozen=True, slots=True)
class Change:
    """What the file at `path` says before and after; None where there is no file."""

    path: str
    before: str | None
    after: str | None

    def __bool__(self) -> bool:
        return self.before != self.after

    def diff(self) -> Iterator[str]:
        """The lines of a unified diff, in colour."""
        (before, source), (after, target) = (
            ([], "/dev/null") if text is None else (text.splitlines(), self.path) for text in (self.before, self.after)
        )
        for line in difflib.unified_diff(before, after, source, target, lineterm=""):
            yield click.style(line, fg=COLOURS.get(line[0]), bold=line.startswith(("---", "+++")))

    def check(self) -> None:
        """FerryError if this user may not make the change."""
        directory = os.path.dirname(os.path.realpath(self.path))
        while not os.path.lexists(directory):
            directory = os.path.dirname(directory)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise FerryError(f"cannot write '{self.path}': you may not change '{directory}'; run this as root")

    def make(self) -> None:
        """Write the file whole, with the mode and the owner that it had; or remove it, and a directory left empty."""
        # Of a link, what it points to is changed.
        target = os.path.realpath(self.path)
        try:
            if self.after is None:
                os.unlink(target)
                with suppress(OSError):
                    os.rmdir(os.path.dirname(target))
            else:
                _replace(target, self.after.encode(errors="surrogateescape"))
        except OSError as error:
            raise FerryError(f"cannot write '{self.path}': {error.strerror}") from None


def make(changes: Sequence[Change], *, yes: bool, dry_run: bool) -> bool:
    """Show the changes and make them, unless there is to be none; whether they were made."""
    for change in changes:
        for line in change.diff():
            click.echo(line)
    if dry_run:
        return False
    for change in changes:
        change.check()
    if not yes and not sys.stdin.isatty():
        raise FerryError("there is no terminal to ask on: give --yes to write this, or --dry-run to only see it")
    if not yes:
        click.confirm("Write this?", abort=True)
    for change in changes:
        change.make()
        click.echo(f"{'removed' if change.after is None else 'wrote'} '{change.path}'")
    return True


def read_text(path: str) -> str | None:
    """The text of a file, whatever its bytes; None if there is none."""
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FerryError(f"cannot read '{path}': {error.strerror}") from None


def _replace(target: str, content: bytes) -> None:
    directory = os.path.dirname(target)
    os.makedirs(directory, exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=directory, prefix=".nix-ferry-")
    try:
        with open(fd, "wb") as file:
            file.write(content)
            _dress(file.fileno(), target)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError:
        os.unlink(temporary)
        raise


def _dress(fd: int, target: str) -> None:
    """Give the file at `fd` the mode and the owner of the one at `target`."""
    try:
        known = os.stat(target)
    except FileNotFoundError:
        os.fchmod(fd, 0o644)
        return
    os.fchmod(fd, known.st_mode & 0o7777)
    if (known.st_uid, known.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(fd, known.st_uid, known.st_gid)
