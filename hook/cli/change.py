"""A change of one file that its user sees first: as a diff, then all at once or not at all.

What somebody else writes into the file between the look and the write stays: the change is made again, to what the file
says by then.  Tested in test_change.py and test_install.py.
"""

import difflib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import click

from hook.config import read_small
from hook.errors import FerryError

yes_option = click.option("--yes", "-y", is_flag=True, help="Write without asking.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Only show what would be written.")

COLOURS = {"+": "green", "-": "red", "@": "cyan"}


TRIES = 20
"""How often the file may have changed again when it is about to be written."""

Edit = Callable[[str | None], str | None]
"""What a file is to say, from what it says; None where there is no file."""


@dataclass(frozen=True, slots=True)
class Change:
    """What the file at `path` says before and after `edit`; None where there is no file."""

    path: str
    before: str | None
    after: str | None
    edit: Edit

    @classmethod
    def of(cls, path: str, edit: Edit) -> Self:
        """The change of what the file says now."""
        before = read_text(path)
        return cls(path, before, edit(before), edit)

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
        check_writable(self.path, os.path.dirname(os.path.realpath(self.path)))

    def make(self) -> bool:
        """Write the file whole, with the mode and the owner that it had; or remove it, and a directory left empty.

        True if somebody else has changed it since it was read: then `edit` was made to what it said by then.
        """
        # Of a link, what it points to is changed.
        target = os.path.realpath(self.path)
        for _ in range(TRIES):
            present = read_text(target)
            after = self.after if present == self.before else self.edit(present)
            try:
                if after == present or _write(target, present, after):
                    return present != self.before
            except OSError as error:
                raise FerryError(f"cannot write '{self.path}': {error.strerror}") from None
        raise FerryError(f"cannot write '{self.path}': somebody else does, again and again")


def check_writable(path: str, directory: str) -> None:
    """FerryError if this user may not write `path`, which is in `directory`, there or to be made."""
    while not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise FerryError(f"cannot write '{path}': you may not change '{directory}'; run this as root")


def make(changes: Sequence[Change], *, yes: bool, dry_run: bool) -> bool:
    """Show the changes and make them, unless there is to be none; whether they were made."""
    if not agree(changes, yes=yes, dry_run=dry_run):
        return False
    carry_out(changes)
    return True


def agree(changes: Sequence[Change], *, yes: bool, dry_run: bool) -> bool:
    """Show the changes; whether they are to be made."""
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
    return True


def carry_out(changes: Sequence[Change]) -> None:
    """Make changes that were agreed on."""
    for change in changes:
        meanwhile = change.make()
        click.echo(f"{'removed' if change.after is None else 'wrote'} '{change.path}'")
        if meanwhile:
            click.echo("somebody else has changed it meanwhile: that is in it, too")


def read_text(path: str) -> str | None:
    """The text of a file, whatever its bytes; None if there is none.  FerryError if it is another thing than a file."""
    try:
        return read_small(path).decode(errors="surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FerryError(f"cannot read '{path}': {error.strerror}") from None


def _write(target: str, present: str | None, after: str | None) -> bool:
    """Have the file say `after`; False, and nothing is done, if it does not say `present` any more."""
    if after is not None:
        return _replace(target, present, after.encode(errors="surrogateescape"))
    if read_text(target) != present:
        return False
    os.unlink(target)
    with suppress(OSError):
        os.rmdir(os.path.dirname(target))
    return True


def _replace(target: str, present: str | None, content: bytes) -> bool:
    directory = os.path.dirname(target)
    os.makedirs(directory, exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=directory, prefix=".nix-ferry-")
    try:
        with open(fd, "wb") as file:
            file.write(content)
            _dress(file.fileno(), target)
            file.flush()
            os.fsync(file.fileno())
        # As late as can be: an editor asks nobody for a lock.
        if read_text(target) != present:
            os.unlink(temporary)
            return False
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return True


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
