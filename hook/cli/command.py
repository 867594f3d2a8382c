"""What the subcommands of nix-ferry share: options, warnings, and errors that become one line and an exit status."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec

import click

from hook.errors import EXIT_FAILED, FerryError

P = ParamSpec("P")

nix_options = click.option(
    "--option", "options", type=(str, str), multiple=True, metavar="NAME VALUE", help="Give Nix this setting."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def command(function: Callable[P, int]) -> Callable[P, None]:
    """Exit with what `function` returns; an error of ours becomes one line."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            sys.exit(function(*args, **kwargs))
        except FerryError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(EXIT_FAILED)

    return run


def warn(warnings: Sequence[str]) -> None:
    """Say what may be wrong, beside what a command reports."""
    for warning in warnings:
        click.echo(click.style("warning: ", fg="yellow") + warning, err=True)


def state_dir() -> str:
    """Nix's state directory, where hooks keep their locks and what is theirs alone."""
    return os.environ.get("NIX_STATE_DIR") or "/nix/var/nix"


def private_dir() -> str:
    """The hook's private directory, or one that goes with this process where that is not for us."""
    directory = os.path.join(state_dir(), "nix-ferry")
    if os.access(state_dir(), os.W_OK):
        os.makedirs(directory, 0o700, exist_ok=True)
        return directory
    import tempfile

    passing = tempfile.TemporaryDirectory(prefix="nix-ferry-")
    click.get_current_context().call_on_close(passing.cleanup)
    return passing.name
