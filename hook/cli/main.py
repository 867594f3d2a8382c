"""The nix-ferry command: what a user asks when builds do not go where they should."""

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import click

import hook
from hook.cli import nix
from hook.cli.broker import broker
from hook.cli.command import Program, as_json, command, nix_options, private_dir, warn
from hook.cli.complete import complete_file, complete_machine
from hook.cli.config import completions, config
from hook.cli.doctor.check import Level
from hook.cli.doctor.doctor import examine
from hook.cli.doctor.machine import shown
from hook.cli.explain import explain as explain_derivation
from hook.cli.install.install import install, uninstall
from hook.cli.machine.commands import machine
from hook.cli.output import print_json, print_table
from hook.cli.probe.ping import header, own_store
from hook.cli.probe.ping import ping as ping_machines
from hook.cli.probe.ping import to_json as pongs_to_json
from hook.cli.probe.speed import measure
from hook.cli.status.history import history, show_recent
from hook.cli.status.log import log
from hook.cli.status.metrics import metrics
from hook.cli.status.status import status
from hook.config import find_config
from hook.errors import EXIT_FAILED, FerryError, printable
from hook.machines.configured import host_of, machines_of
from hook.remote.routes import Routes

COLOURS = {Level.OK: "green", Level.NOTE: "yellow", Level.WRONG: "red"}


EPILOG = """\b
Exit status:
  0  everything is well, or was done
  1  something is wrong, or could not be done; standard error says what
  2  the command line makes no sense

\b
Examples:
  nix-ferry install                    have Nix run the hook
  nix-ferry doctor                     what is missing for builds elsewhere, and what helps
  nix-ferry explain nixpkgs#hello      where that would be built, and why not on the others
  nix-ferry ping fast-box              connect to a machine as a build would
"""


@click.group(
    cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EPILOG
)
@click.version_option(hook.__version__, prog_name="nix-ferry")
def main() -> None:
    """Find out where Nix builds go, and why.

    nix-ferry is a build hook: Nix starts it for every build that another machine could do. These commands look at the
    same settings and the same machines as the hook. With a Nix daemon, run them as root, as the daemon does.
    """


main.add_command(completions)
main.add_command(config)
main.add_command(install)
main.add_command(machine)
main.add_command(uninstall)


for each in (status, history, log, metrics, broker):
    main.add_command(each)


@main.command()
@click.argument("installable", required=False, shell_complete=complete_file)
@click.option("--recent", is_flag=True, help="What was decided lately, of paths that contain INSTALLABLE, if given.")
@nix_options
@as_json
@command
def explain(installable: str | None, recent: bool, options: nix.Options, as_json: bool) -> int:
    """Say for every machine why it would or would not build INSTALLABLE.

    INSTALLABLE is a derivation (/nix/store/….drv), a file with Nix code, or a flake reference like nixpkgs#hello.
    Nothing is built.

    \b
    Examples:
      nix-ferry explain ./default.nix    each machine with a verdict, and where it goes
      nix-ferry explain nixpkgs#hello --option max-jobs 0   if nothing could be built here
      nix-ferry explain --recent hello   what was decided about it lately, and why
    """
    if recent:
        return show_recent(installable, as_json=as_json)
    if installable is None:
        raise click.UsageError("Missing argument 'INSTALLABLE'.")
    settings = nix.settings(options)
    paths = nix.derivation_paths(installable, options)
    explanations = [explain_derivation(path, settings, os.environ, private_dir()) for path in paths]
    if as_json:
        print_json([explanation.to_json() for explanation in explanations])
        return 0
    for number, explanation in enumerate(explanations):
        if number:
            click.echo()
        needs = [explanation.request.system, *sorted(explanation.request.features)]
        click.echo(f"{explanation.drv_path} needs {', '.join(needs)}")
        warn(explanation.warnings)
        if rows := explanation.rows():
            print_table(("MACHINE", "LACKS", "VERDICT"), rows)
        else:
            click.echo("no machine is configured: 'builders' is empty, or the file it names")
        if explanation.reads:
            click.echo(explanation.reads)
        click.echo(f"so {explanation.outcome}")
    return 0


@main.command()
@click.argument("machines", nargs=-1, metavar="[MACHINE]...", shell_complete=complete_machine)
@click.option("--speed", is_flag=True, help="Also measure what ssh carries each way, which takes some seconds each.")
@nix_options
@as_json
@command
def ping(machines: Sequence[str], speed: bool, options: nix.Options, as_json: bool) -> int:
    """Connect to machines as a build would, and say how long that takes.

    All of 'builders' are asked, or those whose address contains MACHINE; all at once. Of one that cannot be
    used it tells why, as the hook would.

    \b
    Examples:
      nix-ferry ping                    how long each takes, its Nix, and whether it trusts us
      nix-ferry ping --speed fast-box   also how much ssh carries to and from that one
      nix-ferry ping --json | jq '.[] | select(.error != "")'   only those that cannot be used
    """
    host = host_of(settings := nix.settings(options))
    known, warnings = machines_of(settings, host)
    chosen = [m for m in known if not machines or any(word in m.uri.text for word in machines)]
    if not chosen:
        raise FerryError("no machine of 'builders' matches" if known else "no machine is configured in 'builders'")
    config, complaints = find_config(os.environ)
    routes = Routes(settings, host.release, os.environ, private_dir(), os.getpid(), config.connect_timeout_s)
    pongs = ping_machines(chosen, routes, host.release, own_store(settings, os.environ))
    if speed:
        # One after the other: they share the link of this host.
        pairs = zip(chosen, pongs, strict=True)
        pongs = [pong if pong.error else replace(pong, speed=measure(machine, routes)) for machine, pong in pairs]
    if as_json:
        print_json(pongs_to_json(pongs))
    else:
        warn([*complaints, *warnings])
        print_table(header(speed=speed), [pong.row(speed=speed) for pong in pongs])
    return EXIT_FAILED if any(pong.error for pong in pongs) else 0


@main.command()
@click.option("--verbose", "-v", is_flag=True, help="Show every check of a machine, not only what is not well.")
@nix_options
@as_json
@command
def doctor(verbose: bool, options: nix.Options, as_json: bool) -> int:
    """Check everything that a build elsewhere needs, and say what helps.

    From the setting of Nix to the clock, the disk and the features of each machine: a line each, which is 'ok', 'note'
    or 'wrong'. A machine of which all is well is one line. Nothing is built.

    --json has every check, by subject and, for a machine, by name: state, address, dns, tcp, host-key, login, stdout,
    nix, store, sharing, trust, systems, clock, disk; each with level, text and fix.

    \b
    Examples:
      nix-ferry doctor   all checks; the exit status is 1 if one is wrong
      nix-ferry doctor --option builders 'ssh://new-box'   a machine that is not configured yet
      nix-ferry doctor --json | jq '.[] | select(.level == "wrong")'   only what is wrong
    """
    checks = []
    for _, found in groupby(examine(options, private_dir()), key=lambda check: check.subject):
        checks += (group := list(found))
        for check in [] if as_json else shown(group, verbose=verbose):
            level = click.style(f"{check.level.value:5}", fg=COLOURS[check.level])
            click.echo(f"{level}  {printable(check.title)}: {printable(check.text)}")
            if check.fix:
                click.echo(f"       → {printable(check.fix)}")
    if as_json:
        print_json([check.to_json() for check in checks])
    return EXIT_FAILED if any(check.level is Level.WRONG for check in checks) else 0


if __name__ == "__main__":
    main()
