"""`nix-ferry doctor`: go through all that a build elsewhere needs, and say of each part what is wrong and what helps.

Changes nothing.  Each check is tested in tests/lab/test_doctor.py by breaking what it checks.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import click

from hook.broker.client import user_name
from hook.cli import daemon, nix
from hook.cli.command import as_json, command, nix_options
from hook.cli.doctor.check import Check, Level
from hook.cli.doctor.host import (
    check_broker,
    check_files,
    check_hook,
    check_machines,
    check_settings,
    check_slots,
    check_store,
    check_user,
    no_nix,
    unreachable_daemon,
)
from hook.cli.doctor.leftovers import check_leftovers, check_upload_locks
from hook.cli.doctor.machine import Findings, asks_for_shell, check_machine, shown
from hook.cli.here import Here
from hook.cli.output import print_json
from hook.cli.probe.condition import conditions, shells
from hook.cli.probe.ping import answers, own_store
from hook.cli.probe.way import resolver, ways
from hook.errors import EXIT_FAILED, printable

COLOURS = {Level.OK: "green", Level.NOTE: "yellow", Level.WRONG: "red"}


def examine(here: Here) -> Iterator[Check]:
    """Every check, as it ends, those of one machine together; those that need what is missing are left out."""
    try:
        release = nix.version()
        settings = here.settings
    except nix.NixError as error:
        yield no_nix(error)
        return
    yield Check("Nix", Level.OK, f"{release}, {settings.text('system')}")
    yield from check_settings(settings)
    kept_out = unreachable_daemon(here.environ)
    if kept_out is not None:
        yield kept_out
    served = kept_out is not None or daemon.serves(settings, here.environ)
    hook = check_hook(settings, release, served)
    yield hook
    if kept_out is None and daemon.is_used(settings, here.environ):
        yield check_user()
    yield check_store(settings, served)
    for warning in here.complaints:
        yield Check("ferry.toml", Level.WRONG, warning, "correct it; until then the defaults hold")
    host, machines, routes = here.host, here.machines, here.routes
    for warning in here.warnings:
        yield Check("builders", Level.WRONG, warning, "correct this line; the other machines stay usable")
    yield from check_files(settings)
    yield check_machines(machines, host, settings)
    if not served or os.geteuid() == 0:
        yield check_slots(here.state_dir, machines, host)
        yield check_upload_locks(here.state_dir, machines, host.release)
        yield check_broker(hook_is_ours=hook.level is not Level.WRONG)
        temporary = here.environ.get("TMPDIR") or "/tmp"
        yield check_leftovers(here.state_dir, here.private_dir, temporary, machines, host.release)
    with ThreadPoolExecutor(max_workers=1) as meanwhile:
        looking = meanwhile.submit(ways, machines, routes)
        pongs = answers(machines, routes, host.release, own_store(settings, here.environ))
    asked = list(zip(machines, pongs, strict=True))
    well = conditions([None if pong.error else machine for machine, pong in asked], routes)
    mute = shells([machine if asks_for_shell(pong) else None for machine, pong in asked], routes)
    for (machine, pong), way, state, shell in zip(asked, looking.result(), well, mute, strict=True):
        yield from check_machine(
            Findings(
                machine=machine,
                way=way,
                pong=pong,
                condition=state,
                disabled=here.disabled.reason(machine),
                resolver=resolver(),
                user=user_name(os.geteuid()),
                as_daemon=not served or os.geteuid() == 0,
                shell=shell,
            )
        )


@click.command()
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
    for _, found in groupby(examine(Here(options)), key=lambda check: check.subject):
        checks += (group := list(found))
        for check in [] if as_json else shown(group, verbose=verbose):
            level = click.style(f"{check.level.value:5}", fg=COLOURS[check.level])
            click.echo(f"{level}  {printable(check.title)}: {printable(check.text)}")
            if check.fix:
                click.echo(f"       → {printable(check.fix)}")
    if as_json:
        print_json([check.to_json() for check in checks])
    return EXIT_FAILED if any(check.level is Level.WRONG for check in checks) else 0
