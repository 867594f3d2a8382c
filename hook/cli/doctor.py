"""`nix-ferry doctor`: go through all that a build elsewhere needs, and say of each part what is wrong and what helps.

Changes nothing.  Each check is tested in tests/lab/test_doctor.py by breaking what it checks.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from hook.cli import daemon, nix, place
from hook.cli.asking import RunningBroker, broker_directory, user_name
from hook.cli.check import Check, Level
from hook.cli.command import state_dir
from hook.cli.condition import conditions
from hook.cli.holders import holders
from hook.cli.leftovers import check_leftovers, check_upload_locks
from hook.cli.machinechecks import Findings, check_machine
from hook.cli.ping import own_store, ping
from hook.cli.way import resolver, ways
from hook.config import find_config
from hook.disabled import Disabled
from hook.errors import FerryError, StockOnly
from hook.machines import Machine
from hook.routes import Routes
from hook.schedule import Host
from hook.services import host_of, machines_of
from hook.settings import Settings
from hook.store.database import Database
from hook.store.location import find_store


def examine(options: nix.Options, private_dir: str) -> Iterator[Check]:
    """Every check, as it ends, those of one machine together; those that need what is missing are left out."""
    try:
        release = nix.version()
        settings = nix.settings(options)
    except nix.NixError as error:
        yield Check("Nix", Level.WRONG, error.one_line, "install Nix, or put it into PATH")
        return
    yield Check("Nix", Level.OK, f"{release}, {settings.text('system')}")
    served = daemon.serves(settings, os.environ)
    yield _check_hook(settings, release, served)
    if daemon.is_used(settings, os.environ):
        yield _check_user()
    yield _check_store(settings, served)
    config, complaints = find_config(os.environ)
    for warning in complaints:
        yield Check("ferry.toml", Level.WRONG, warning, "correct it; until then the defaults hold")
    host = host_of(settings)
    machines, warnings = machines_of(settings, host)
    for warning in warnings:
        yield Check("builders", Level.WRONG, warning, "correct this line; the other machines stay usable")
    yield _check_machines(machines, host, settings)
    if not served or os.geteuid() == 0:
        yield _check_slots(machines, host)
        yield check_upload_locks(state_dir(), machines, host.release)
        yield _check_broker()
        temporary = os.environ.get("TMPDIR") or "/tmp"
        yield check_leftovers(state_dir(), private_dir, temporary, machines, host.release)
    routes = Routes(settings, host.release, os.environ, private_dir, os.getpid(), config.connect_timeout_s)
    with ThreadPoolExecutor(max_workers=1) as meanwhile:
        looking = meanwhile.submit(ways, machines, routes)
        pongs = ping(machines, routes, host.release, own_store(settings, os.environ))
    well = [None if pong.error else machine for machine, pong in zip(machines, pongs, strict=True)]
    disabled = Disabled(private_dir)
    for machine, way, pong, state in zip(machines, looking.result(), pongs, conditions(well, routes), strict=True):
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
            )
        )


def _check_hook(settings: Settings, release: str, served: bool) -> Check:
    """Whether whoever builds would run our hook."""
    subject = "build-hook"
    who = "the Nix daemon" if served else "Nix"
    if served:
        try:
            environ = daemon.environment(os.environ)
        except FerryError as error:
            return Check(subject, Level.WRONG, error.one_line, "have root alone own it, then restart the daemon")
        if environ is None:
            text = "the daemon's environment cannot be seen, so its build hook is not known"
            return Check(subject, Level.NOTE, text, "run this as root, while the daemon runs")
        settings = nix.settings((), environ)
    value = settings.text("build-hook")
    program = value.split()[0] if value else ""
    if not place.is_hook(value):
        return Check(subject, Level.WRONG, f"{who} runs '{value}', not {place.HOOK}", _how_to_set(release, served))
    if not os.access(program, os.X_OK):
        return Check(subject, Level.WRONG, f"{who} is to run '{program}', which is no executable", "install nix-ferry")
    return Check(subject, Level.OK, f"{who} runs '{program}'")


def _how_to_set(release: str, served: bool) -> str:
    line = f"build-hook = {place.hook_path()}"
    does = "run 'nix-ferry install', which puts"
    if not place.ignores_nix_conf(release):
        return f"{does} '{line}' into /etc/nix/nix.conf" + (", then restart the daemon" if served else "")
    if not served:
        return f"{does} '{line}' into ~/.config/nix/nix.conf (Nix {release} ignores it in /etc/nix/nix.conf)"
    return (
        f"Nix {release} ignores it in nix.conf: {does} 'Environment=\"NIX_CONFIG={line}\"' into {place.DROP_IN}, "
        "then 'systemctl daemon-reload && systemctl restart nix-daemon'"
    )


def _check_user() -> Check:
    trusted = nix.is_trusted()
    if trusted is None:
        return Check("user", Level.NOTE, "this Nix does not say whether the daemon trusts you")
    if trusted:
        return Check("user", Level.OK, "the daemon trusts you: 'builders' on your command line counts")
    text = "the daemon does not trust you: it goes by its own 'builders', whatever your command line says"
    return Check("user", Level.NOTE, text, "set 'builders' in /etc/nix/nix.conf, or add yourself to 'trusted-users'")


def _check_store(settings: Settings, served: bool) -> Check:
    subject = "store"
    if served and os.geteuid() != 0:
        return Check(subject, Level.NOTE, "only root can look into the daemon's store", "run this as root")
    try:
        location = find_store(_store_uri(settings, served), os.environ)
        if not os.path.exists(os.path.join(location.state_dir, "db")):
            return Check(subject, Level.NOTE, f"there is none yet in '{location.real_store_dir}'; Nix makes it")
        with Database.open(location.state_dir):
            return Check(subject, Level.OK, f"'{location.real_store_dir}', of a known format")
    except StockOnly as reason:
        return Check(subject, Level.NOTE, f"builds are left to the stock hook: {reason.one_line}")
    except FerryError as error:
        return Check(subject, Level.WRONG, error.one_line)


def _store_uri(settings: Settings, served: bool) -> str:
    uri = "auto" if served else settings.text("store", "auto")
    # Where this process may not write is for the database to say.
    return "local" if uri in ("", "auto", "daemon") else uri


def _check_machines(machines: list[Machine], host: Host, settings: Settings) -> Check:
    source = settings.text("builders")
    text = f"{len(machines)} in " + (f"'builders = {source}'" if source.startswith("@") else "'builders'")
    if not machines:
        fix = "describe a machine in /etc/nix/machines, for example 'ssh-ng://host x86_64-linux /root/.ssh/key 4'"
        return Check("machines", Level.WRONG, text, fix)
    if not any(machine.max_jobs for machine in machines):
        return Check("machines", Level.WRONG, f"{text}, and none takes a job", "raise the 4th column, max jobs")
    if host.max_jobs > 0:
        here = f"; this host builds, too, when they are busy (max-jobs is {host.max_jobs})"
        return Check("machines", Level.OK, text + here)
    return Check("machines", Level.OK, f"{text}; nothing is built here (max-jobs is 0)")


def _check_slots(machines: list[Machine], host: Host) -> Check:
    """Whose builds hold them: those of a process that hangs would be held for ever."""
    held = holders(os.path.join(state_dir(), "current-load"))
    busy = []
    for machine in machines:
        stem = machine.uri.lock_stem(host.release)
        owners = [held[name] for number in range(machine.max_jobs) if (name := f"{stem}-{number}") in held]
        if owners:
            whose = "; ".join(sorted(set(owners)))
            busy.append(f"{len(owners)} of {machine.max_jobs} of '{machine.uri.render(host.release)}' ({whose})")
    return Check("slots", Level.OK, ", ".join(busy) + " are busy" if busy else "all are free")


def _check_broker() -> Check:
    subject = "broker"
    try:
        directory = broker_directory(os.environ)
        running = RunningBroker.reach(directory)
    except FerryError as error:
        return Check(subject, Level.WRONG, error.one_line)
    if running is not None:
        with closing(running):
            return Check(subject, Level.OK, f"process {running.pid}, which writes '{directory}/broker.log'")
    if os.path.exists(os.path.join(directory, "broker.sock")):
        text = f"none runs; one that was killed has left '{directory}/broker.sock'"
        return Check(subject, Level.NOTE, text, "nothing to do: the next build starts one, and replaces it")
    return Check(subject, Level.OK, "none runs; the next build starts one")
