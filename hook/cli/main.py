"""The nix-ferry command: what a user asks when builds do not go where they should.

Exit status: 0 if everything is well, 1 if something is wrong (and said), 2 for a command line that makes no sense.
"""

import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec

import click

import hook
from hook.cli import nix
from hook.cli.doctor import Level, examine
from hook.cli.explain import explain as explain_derivation
from hook.cli.output import print_json, print_table
from hook.cli.ping import HEADER as PING_HEADER
from hook.cli.ping import ping as ping_machines
from hook.cli.ping import to_json as pongs_to_json
from hook.config import find_config
from hook.errors import EXIT_FAILED, FerryError
from hook.routes import Routes
from hook.services import host_of, machines_of

P = ParamSpec("P")

COLOURS = {Level.OK: "green", Level.NOTE: "yellow", Level.WRONG: "red"}

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


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(hook.__version__, prog_name="nix-ferry")
def main() -> None:
    """Find out where Nix builds go, and why.

    nix-ferry is a build hook: Nix starts it for every build that another machine could do. These commands look at the
    same settings and the same machines as the hook. With a Nix daemon, run them as root, as the daemon does.
    """


@main.command()
@click.argument("installable")
@nix_options
@as_json
@command
def explain(installable: str, options: nix.Options, as_json: bool) -> int:
    """Say for every machine why it would or would not build INSTALLABLE.

    INSTALLABLE is a derivation (/nix/store/….drv), a file with Nix code, or a flake reference like nixpkgs#hello.
    Nothing is built.
    """
    settings = nix.settings(options)
    paths = nix.derivation_paths(installable, options)
    explanations = [explain_derivation(path, settings, os.environ) for path in paths]
    if as_json:
        print_json([explanation.to_json() for explanation in explanations])
        return 0
    for number, explanation in enumerate(explanations):
        if number:
            click.echo()
        needs = [explanation.request.system, *sorted(explanation.request.features)]
        click.echo(f"{explanation.drv_path} needs {', '.join(needs)}")
        _warn(explanation.warnings)
        if rows := explanation.rows():
            print_table(("MACHINE", "VERDICT"), rows)
        else:
            click.echo("no machine is configured: 'builders' is empty, or the file it names")
        click.echo(f"so {explanation.outcome}")
    return 0


@main.command()
@click.argument("machines", nargs=-1, metavar="[MACHINE]...")
@nix_options
@as_json
@command
def ping(machines: Sequence[str], options: nix.Options, as_json: bool) -> int:
    """Connect to machines as a build would: all of them, or those whose address contains MACHINE."""
    host = host_of(settings := nix.settings(options))
    known, warnings = machines_of(settings, host)
    chosen = [m for m in known if not machines or any(word in m.uri.text for word in machines)]
    if not chosen:
        raise FerryError("no machine of 'builders' matches" if known else "no machine is configured in 'builders'")
    config, complaints = find_config(os.environ)
    routes = Routes(settings, host.release, os.environ, _private_dir(), os.getpid(), config.connect_timeout_s)
    pongs = ping_machines(chosen, routes, host.release)
    if as_json:
        print_json(pongs_to_json(pongs))
    else:
        _warn([*complaints, *warnings])
        print_table(PING_HEADER, [pong.row() for pong in pongs])
    return EXIT_FAILED if any(pong.error for pong in pongs) else 0


@main.command()
@nix_options
@as_json
@command
def doctor(options: nix.Options, as_json: bool) -> int:
    """Go through everything that a build elsewhere needs, and say what is wrong and what helps."""
    wrong = False
    checks = []
    for check in examine(options, _private_dir()):
        wrong |= check.level is Level.WRONG
        checks.append(check.to_json())
        if not as_json:
            click.echo(
                f"{click.style(f'{check.level.value:5}', fg=COLOURS[check.level])}  {check.subject}: {check.text}"
            )
            if check.fix:
                click.echo(f"       → {check.fix}")
    if as_json:
        print_json(checks)
    return EXIT_FAILED if wrong else 0


def _warn(warnings: Sequence[str]) -> None:
    for warning in warnings:
        click.echo(click.style("warning: ", fg="yellow") + warning, err=True)


def _private_dir() -> str:
    """The hook's private directory, or one that goes with this process where that is not for us."""
    state_dir = os.environ.get("NIX_STATE_DIR") or "/nix/var/nix"
    private_dir = os.path.join(state_dir, "nix-ferry")
    if os.access(state_dir, os.W_OK):
        os.makedirs(private_dir, 0o700, exist_ok=True)
        return private_dir
    import tempfile

    directory = tempfile.TemporaryDirectory(prefix="nix-ferry-")
    click.get_current_context().call_on_close(directory.cleanup)
    return directory.name


if __name__ == "__main__":
    main()
