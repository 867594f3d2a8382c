"""The hook as it lies outside of what is installed, so that it answers whatever becomes of that.

Two entries of a directory: the executable, a copy of ours, and a link `programs` to the directory of our programs.
Each replaces what was there at once, also while it runs.  Tested in tests/cli/install/test_hookfile.py.
"""

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass

from hook.cli.change import Change, check_writable
from hook.errors import FerryError

LINK = "programs"
"""What native/shim/reach.c looks for beside itself."""


@dataclass(frozen=True, slots=True)
class Entry(Change):
    """A change of what is no text: `before` and `after` describe it in a line, and `source` is what it is made from."""

    source: str = ""

    def check(self) -> None:
        """FerryError if this user may not make the change."""
        check_writable(self.path, os.path.dirname(self.path))

    def make(self) -> bool:
        """Make it, whatever is there by now; a directory that is left empty is removed."""
        directory = os.path.dirname(self.path)
        try:
            if self.after is None:
                os.unlink(self.path)
                with suppress(OSError):
                    os.rmdir(directory)
            else:
                os.makedirs(directory, 0o755, exist_ok=True)
                self._replace(tempfile.mkdtemp(dir=directory, prefix=".nix-ferry-"))
        except OSError as error:
            raise FerryError(f"cannot write '{self.path}': {error.strerror}") from None
        return False

    def _replace(self, temporary: str) -> None:
        """By way of a directory that is ours for the moment."""
        made = os.path.join(temporary, "made")
        try:
            self._create(made)
            os.replace(made, self.path)
        finally:
            with suppress(OSError):
                os.unlink(made)
            os.rmdir(temporary)

    def _create(self, path: str) -> None:
        os.symlink(self.source, path)


class Copy(Entry):
    """An executable."""

    __slots__ = ()

    def _create(self, path: str) -> None:
        with open(self.source, "rb") as source, open(path, "xb") as target:
            target.write(source.read())
            os.fchmod(target.fileno(), 0o755)
            target.flush()
            os.fsync(target.fileno())


def placing(hook: str, own: str) -> list[Change]:
    """What makes a hook at the path `hook` of `own`, the one beside our programs."""
    programs, link = os.path.dirname(own), _link(hook)
    copy = f"a copy of '{own}'"
    return [
        Copy(hook, copy if _same(hook, own) else _described(hook), copy, _unchanged, own),
        Entry(link, _described(link), f"a link to '{programs}'", _unchanged, programs),
    ]


def removing(hook: str) -> list[Change]:
    """What takes it away."""
    entries = (_link(hook), hook)
    return [Entry(path, _described(path), None, _unchanged) for path in entries if os.path.lexists(path)]


def reached(program: str) -> list[str]:
    """The programs that the hook `program` starts, whether or not they are there."""
    directory = os.path.dirname(os.path.realpath(program))
    link = os.path.join(directory, LINK)
    where = os.path.realpath(link) if os.path.lexists(link) else directory
    return [os.path.join(where, name) for name in ("nix-ferry-broker", "nix-ferry-standalone")]


def lacking(program: str) -> str | None:
    """The directory in which the hook `program` looks for programs, if they are not there; None if they are."""
    programs = reached(program)
    return None if all(os.access(path, os.X_OK) for path in programs) else os.path.dirname(programs[0])


def _unchanged(text: str | None) -> str | None:
    return text


def _link(hook: str) -> str:
    return os.path.join(os.path.dirname(hook), LINK)


def _described(path: str) -> str | None:
    if os.path.islink(path):
        return f"a link to '{os.readlink(path)}'"
    return "an executable" if os.path.lexists(path) else None


def _same(path: str, other: str) -> bool:
    try:
        with open(path, "rb") as one, open(other, "rb") as two:
            return not os.path.islink(path) and os.access(path, os.X_OK) and one.read() == two.read()
    except OSError:
        return False
