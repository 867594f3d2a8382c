"""What the subcommands of nix-ferry share: options, warnings, and errors that become one line and an exit status."""

import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from typing import Any, NoReturn, ParamSpec

import click

from hook.cli.complete import complete_setting
from hook.errors import EXIT_FAILED, FerryError, printable

P = ParamSpec("P")

OURS = os.path.dirname(os.path.dirname(__file__))

nix_options = click.option(
    "--option",
    "options",
    type=(str, str),
    multiple=True,
    metavar="NAME VALUE",
    help="Ask as if Nix had this setting, like its own --option; may be repeated.",
    shell_complete=complete_setting,
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


class Program(click.Group):
    """All subcommands.  Whatever the system refuses them is one line, too: a full disk behind standard output, say.

    So is a mistake of our own, with its place; all of its stack is shown if NIX_FERRY_TRACE is set.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a program."""
        _open_standard_streams()
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            subject = "" if error.filename is None else f"'{os.fsdecode(error.filename)}': "
            _fail(f"{subject}{error.strerror or error}")
        except Exception as error:
            if "NIX_FERRY_TRACE" in os.environ:
                raise
            _fail(f"nix-ferry itself made a mistake, please report it: {_place(error)}")


def _fail(text: str) -> NoReturn:
    _echo("error: ", text)
    # What could not be written would be tried once more at the end, with a stack trace.
    with suppress(OSError), open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), sys.stdout.fileno())
    sys.exit(EXIT_FAILED)


def _place(error: Exception) -> str:
    """What went wrong and where in our own files, on one line."""
    import traceback

    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(OURS)]
    where = f"{os.path.relpath(frames[-1].filename, OURS)}:{frames[-1].lineno}" if frames else "?"
    return " ".join(f"{type(error).__name__} in {where}: {error}".split())


def _open_standard_streams() -> None:
    """Those that were closed lead nowhere; otherwise the next file that is opened would take their place."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        # A character that the user's locale lacks is no reason to say nothing.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def command(function: Callable[P, int]) -> Callable[P, None]:
    """Exit with what `function` returns; an error of ours becomes one line."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            sys.exit(function(*args, **kwargs))
        except FerryError as error:
            _echo("error: ", str(error))
            sys.exit(EXIT_FAILED)

    return run


def warn(warnings: Sequence[str]) -> None:
    """Say what may be wrong, beside what a command reports."""
    for warning in warnings:
        _echo(click.style("warning: ", fg="yellow"), warning)


def _echo(what: str, text: str) -> None:
    """Say something in which a machine may have had a say."""
    click.echo(what + "\n".join(map(printable, text.split("\n"))), err=True)
