"""Run one session in this very process, with nothing remembered from others.

Opens what a session needs from the settings the parent sent: the local store, the machines, the slots.
"""

import os
from collections.abc import Mapping

from hook.front import Front
from hook.log import Log
from hook.machines import format_machine, parse_machines
from hook.notices import Notices
from hook.protocol.activity import Verbosity
from hook.release import release_of
from hook.schedule import Host
from hook.session import Services, Session
from hook.settings import Settings
from hook.slots import SlotTable
from hook.store.local import LocalStore


def run(front: Front, environ: Mapping[str, str]) -> int:
    """Serve one conversation; returns the exit status of the hook."""
    return Session(front, lambda settings: open_services(settings, environ, front.log)).run()


def open_services(settings: Settings, environ: Mapping[str, str], log: Log) -> Services:
    """Open everything the settings name; warns once per Nix command about lines of `builders` it cannot use."""
    host = Host(
        system=settings.text("system"),
        extra_platforms=frozenset(settings.words("extra-platforms")),
        features=frozenset(settings.words("system-features")),
        max_jobs=settings.number("max-jobs", 1),
        release=release_of(settings),
    )
    store = LocalStore.open(settings, environ)
    private_dir = os.path.join(store.state_dir, "nix-ferry")
    machines, warnings = parse_machines(
        settings.text("builders", "@/etc/nix/machines"),
        default_system=host.system,
        release=host.release,
        read_file=_read_file,
    )
    # One bad line makes the stock hook refuse all of them, so it is given only the good ones.
    good_lines = "\n".join(format_machine(machine, host.release) for machine in machines)
    unknown = [f"unknown setting '{name}'" for machine in machines for name in machine.uri.unknown_parameters]
    notices = Notices(private_dir, os.getppid())
    for warning in warnings + unknown:
        if notices.first_time(warning):
            log.message(Verbosity.WARN, f"\x1b[35;1mwarning:\x1b[0m {warning}")
    return Services(
        settings=settings,
        stock_settings=settings.replace(builders=good_lines) if warnings else settings,
        environ=environ,
        host=host,
        machines=tuple(machines),
        store=store,
        slots=SlotTable(store.state_dir),
        private_dir=private_dir,
    )


def _read_file(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
