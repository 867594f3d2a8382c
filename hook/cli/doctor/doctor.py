"""`nix-ferry doctor`: go through all that a build elsewhere needs, and say of each part what is wrong and what helps.

Changes nothing.  Each check is tested in tests/lab/test_doctor.py by breaking what it checks.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from hook.broker.client import user_name
from hook.cli import daemon, nix
from hook.cli.command import state_dir
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
from hook.cli.doctor.machine import Findings, asks_for_shell, check_machine
from hook.cli.probe.condition import conditions, shells
from hook.cli.probe.ping import own_store, ping
from hook.cli.probe.way import resolver, ways
from hook.config import find_config
from hook.machines.configured import host_of, machines_of
from hook.machines.disabled import Disabled
from hook.remote.routes import Routes


def examine(options: nix.Options, private_dir: str) -> Iterator[Check]:
    """Every check, as it ends, those of one machine together; those that need what is missing are left out."""
    try:
        release = nix.version()
        settings = nix.settings(options)
    except nix.NixError as error:
        yield no_nix(error)
        return
    yield Check("Nix", Level.OK, f"{release}, {settings.text('system')}")
    yield from check_settings(settings)
    kept_out = unreachable_daemon(os.environ)
    if kept_out is not None:
        yield kept_out
    served = kept_out is not None or daemon.serves(settings, os.environ)
    hook = check_hook(settings, release, served)
    yield hook
    if kept_out is None and daemon.is_used(settings, os.environ):
        yield check_user()
    yield check_store(settings, served)
    config, complaints = find_config(os.environ)
    for warning in complaints:
        yield Check("ferry.toml", Level.WRONG, warning, "correct it; until then the defaults hold")
    host = host_of(settings)
    machines, warnings = machines_of(settings, host)
    for warning in warnings:
        yield Check("builders", Level.WRONG, warning, "correct this line; the other machines stay usable")
    yield from check_files(settings)
    yield check_machines(machines, host, settings)
    if not served or os.geteuid() == 0:
        yield check_slots(machines, host)
        yield check_upload_locks(state_dir(), machines, host.release)
        yield check_broker(hook_is_ours=hook.level is not Level.WRONG)
        temporary = os.environ.get("TMPDIR") or "/tmp"
        yield check_leftovers(state_dir(), private_dir, temporary, machines, host.release)
    routes = Routes(settings, host.release, os.environ, private_dir, os.getpid(), config.connect_timeout_s)
    with ThreadPoolExecutor(max_workers=1) as meanwhile:
        looking = meanwhile.submit(ways, machines, routes)
        pongs = ping(machines, routes, host.release, own_store(settings, os.environ))
    asked = list(zip(machines, pongs, strict=True))
    well = conditions([None if pong.error else machine for machine, pong in asked], routes)
    mute = shells([machine if asks_for_shell(pong) else None for machine, pong in asked], routes)
    disabled = Disabled(private_dir)
    for (machine, pong), way, state, shell in zip(asked, looking.result(), well, mute, strict=True):
        yield from check_machine(
            Findings(
                machine=machine,
                way=way,
                pong=pong,
                condition=state,
                disabled=disabled.reason(machine),
                resolver=resolver(),
                user=user_name(os.geteuid()),
                as_daemon=not served or os.geteuid() == 0,
                shell=shell,
            )
        )
