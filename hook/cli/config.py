"""`nix-ferry config` and `nix-ferry completions`: what is in force, and what a shell is to know."""

import os
from typing import TYPE_CHECKING

import click

from hook.cli.command import as_json, command
from hook.cli.complete import VARIABLE
from hook.cli.output import print_json, print_table
from hook.config import KEYS, Value, config_path, read_values
from hook.errors import EXIT_OK

if TYPE_CHECKING:
    from click.shell_completion import ShellComplete

SHELLS = ("bash", "fish", "zsh")


@click.command()
@as_json
@command
def config(as_json: bool) -> int:
    """Show nix-ferry's own settings, and where each is from.

    They are the keys of ferry.toml, which is read for every build.

    \b
    Examples:
      nix-ferry config   each key, its value, and the file it is from
      nix-ferry config --json | jq '."look-ahead".value'   one value, for programs
    """
    path = config_path(os.environ)
    given = read_values(path)
    effective = {key: given.get(key, key.default) for key in KEYS}
    sources = {key: path if key in given else "default" for key in KEYS}
    if as_json:
        print_json({key.name: {"value": effective[key], "from": sources[key]} for key in KEYS})
    else:
        rows = [(key.name, written(effective[key]) or key.unset, sources[key]) for key in KEYS]
        print_table(("KEY", "VALUE", "FROM"), rows)
    return EXIT_OK


def written(value: Value) -> str:
    """A value as the file has it; empty if there is none."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
    return str(value)


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
@command
def completions(context: click.Context, shell: str) -> int:
    """Print what lets a shell complete commands, options, machines and settings.

    It is also installed, in share/ beside the bin/ of nix-ferry, where a shell finds it below /usr or /usr/local. The
    shell calls nix-ferry by its name, so that has to be in PATH.

    \b
    Examples:
      eval "$(nix-ferry completions bash)"   in ~/.bashrc: for this user, from the next shell on
      eval "$(nix-ferry completions zsh)"    in ~/.zshrc, behind compinit
      nix-ferry completions fish | source    in ~/.config/fish/config.fish
    """
    click.echo(script(context.find_root().command, shell))
    return EXIT_OK


def script(program: click.Command, shell: str) -> str:
    """What `shell` has to read to complete `program`, which is nix-ferry."""
    from click import shell_completion

    # Not what asks the shell for its version: it may run elsewhere, or not be installed yet.
    complete: type[ShellComplete] = getattr(shell_completion, f"{shell.capitalize()}Complete")
    asked = complete(program, {}, "nix-ferry", VARIABLE)
    # In a file that zsh loads by itself, click's condition holds for the first key only; the second would do nothing.
    return str(asked.source_template % asked.source_vars()).replace(
        "$zsh_eval_context[-1] == loadautofunc", "$funcstack[1] == _nix-ferry"
    )
