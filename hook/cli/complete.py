"""What a shell offers for words that only this host can tell: machines, settings of Nix, files.

A shell that completes is no place for an error: what cannot be found out is not offered.  Tested in
cli/test_config_command.py, and with real shells in test_completions.py.
"""

import os

import click
from click.shell_completion import CompletionItem, get_completion_class

from hook.cli import nix
from hook.errors import FerryError
from hook.machines.configured import host_of, machines_of

VARIABLE = "_NIX_FERRY_COMPLETE"
"""By which the scripts of click ask us."""


def complete_machine(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Hosts of 'builders' that begin with what was typed; addresses only if it looks like one."""
    try:
        settings = nix.settings()
        uris = [machine.uri for machine in machines_of(settings, host_of(settings))[0]]
    except FerryError:
        return []
    if typed.startswith("ssh"):
        names = {uri.text for uri in uris}
    elif typed.startswith("/"):
        # To bash a colon ends a word.
        names = {uri.text.partition(":")[2] for uri in uris}
    else:
        names = {uri.host for uri in uris}
    return sorted(name for name in names if name.startswith(typed))


def complete_setting(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Names of settings after `--option`; for their values nothing."""
    shell = get_completion_class(os.environ[VARIABLE].partition("_")[0])
    if shell is None or shell(context.command, {}, "", VARIABLE).get_completion_args()[0][-1] not in parameter.opts:
        return []
    try:
        names = list(nix.settings())
    except FerryError:
        return []
    return sorted(name for name in names if name.startswith(typed))


def complete_file(context: click.Context, parameter: click.Parameter, typed: str) -> "list[CompletionItem[str]]":
    """Files, by the shell's own rules."""
    return [CompletionItem(typed, type="file")]
