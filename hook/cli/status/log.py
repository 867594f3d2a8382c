"""`nix-ferry log`: the broker's own log, its end and what is added to it.  Tested in cli/status/test_log.py."""

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

import click

from hook.broker.client import broker_directory
from hook.broker.log import LOG_NAME
from hook.cli.command import command
from hook.errors import FerryError, printable

LOOK_S = 0.5


@click.command()
@click.option(
    "-n", "--lines", default=20, show_default=True, type=click.IntRange(min=0), help="How many lines to show."
)
@click.option("-f", "--follow", is_flag=True, help="Show what is added, too, until Ctrl-C; the exit status is 0 then.")
@command
def log(lines: int, follow: bool) -> int:
    """Show the end of the broker's log.

    It tells when brokers began and left, hooks they could not serve, and their own mistakes. What builds say is in
    Nix's logs; what became of them in 'nix-ferry history'.

    \b
    Examples:
      nix-ferry log -n 50      the last fifty lines
      nix-ferry log --follow   the last ones, and each that is added
    """
    path = os.path.join(broker_directory(os.environ), LOG_NAME)
    tail = Tail(path)
    try:
        for line in tail.end(lines):
            click.echo(line)
        if not os.path.exists(path):
            click.echo(f"no broker has written '{path}' yet", err=True)
        with suppress(KeyboardInterrupt):
            while follow:
                sys.stdout.flush()
                time.sleep(LOOK_S)
                for line in tail.more():
                    click.echo(line)
    except OSError as error:
        raise FerryError(f"cannot read '{error.filename or path}': {error.strerror}") from None
    return 0


class Tail:
    """The lines of a log that is set aside as `PATH.1` now and then, after which another begins."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._inode = 0
        self._offset = 0

    def end(self, lines: int) -> list[str]:
        """The last whole lines there are, of both files."""
        last: deque[str] = deque(maxlen=lines)
        last.extend(_lines(self._path + ".1", 0)[0])
        last.extend(self.more())
        return list(last)

    def more(self) -> Iterator[str]:
        """The whole lines since the last call."""
        with suppress(FileNotFoundError):
            inode = os.stat(self._path).st_ino
            if inode != self._inode:
                if self._inode:
                    yield from _lines(self._path + ".1", self._offset)[0]
                self._inode, self._offset = inode, 0
            lines, self._offset = _lines(self._path, self._offset)
            yield from lines


def _lines(path: str, offset: int) -> tuple[list[str], int]:
    """Whole lines from `offset` on, and where they end; none if there is no such file."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data, newline, _ = file.read().rpartition(b"\n")
    except FileNotFoundError:
        return [], offset
    lines = data.decode(errors="backslashreplace").split("\n") if newline else []
    return [printable(line) for line in lines], offset + len(data) + len(newline)
