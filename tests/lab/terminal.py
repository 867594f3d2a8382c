"""A command in a container at a terminal of its own: what a user sees who resizes the window or presses Ctrl-C."""

import re
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import pexpect

from tests.lab.container import Container

ROWS = 30
CTRL_C = "\x03"


class Terminal:
    """Runs `argv` in `host`; a context manager that ends it."""

    def __init__(
        self, host: Container, argv: Sequence[str], *, columns: int = 80, env: Mapping[str, str] | None = None
    ) -> None:
        command = host.command(argv, env={"TERM": "xterm", **(env or {})}, terminal=True)
        self._child = pexpect.spawn(
            command[0], list(command[1:]), dimensions=(ROWS, columns), encoding="utf-8", timeout=60
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._child.close(force=True)

    def expect(self, pattern: str) -> "re.Match[str]":
        """Wait until what is shown from now on matches a regular expression; pexpect.TIMEOUT tells what was shown."""
        self._child.expect(pattern)
        match = self._child.match
        assert isinstance(match, re.Match)
        return match

    def resize(self, columns: int) -> None:
        """Change the width of the window."""
        self._child.setwinsize(ROWS, columns)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._child.send(CTRL_C)

    def finish(self) -> tuple[int | None, str]:
        """Wait for the end of the command; returns its status, None if a signal ended it, and what it still showed."""
        self._child.expect(pexpect.EOF)
        self._child.wait()
        return self._child.exitstatus, str(self._child.before)
