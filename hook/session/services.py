"""What one conversation works with: its caller, the settings Nix sent, and what they name, opened.

Tested in session/test_session.py.
"""

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from hook.config import Config, find_config
from hook.errors import AloneOnly
from hook.front.caller import Caller
from hook.front.log import Log
from hook.front.notices import Notices
from hook.machines.builders import Machine, format_machine
from hook.machines.configured import host_of, machines_of
from hook.machines.disabled import Disabled
from hook.machines.schedule import Host
from hook.machines.slots import SlotTable
from hook.store.databases import Databases
from hook.store.local import LocalStore
from hook.store.location import own_directory
from hook.values.limits import Limits, limits_of
from hook.values.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """Opened from the parent's settings; `close` when the conversation is over."""

    caller: Caller
    config: Config
    settings: Settings
    host: Host
    machines: tuple[Machine, ...]
    left_out: bool
    """Whether `builders` has lines that cannot be used."""
    limits: Limits
    store: LocalStore
    slots: SlotTable
    private_dir: str
    notices: Notices

    @property
    def environ(self) -> Mapping[str, str]:
        """The caller's environment."""
        return self.caller.environ

    @property
    def machines_substitute(self) -> bool:
        """Whether a machine first fetches what it can from elsewhere."""
        return self.settings.flag("builders-use-substitutes", False)

    def stock_settings(self) -> Settings:
        """The settings for the stock hook: without lines that it cannot take, and without machines that are disabled.

        One bad line makes it refuse all of them.  The same object as `settings` if there is nothing to leave out.
        """
        disabled = Disabled(self.private_dir)
        good = [machine for machine in self.machines if disabled.since(machine) is None]
        if not self.left_out and len(good) == len(self.machines):
            return self.settings
        return self.settings.replace(builders="\n".join(format_machine(each, self.host.release) for each in good))

    def close(self) -> None:
        """Close the store."""
        self.store.close()


def open_services(settings: Settings, caller: Caller, databases: Databases, log: Log) -> Services:
    """Open everything the settings name; warns once per Nix command about lines of `builders` it cannot use.

    AloneOnly, or StockOnly, if it is not for this process to open.
    """
    config, complaints = find_config(caller.environ)
    if not config.broker and caller.root is not None:
        raise AloneOnly("there is to be no broker")
    host = host_of(settings)
    store = LocalStore.open(settings, caller.environ, databases, caller.pause)
    for directory in (store.real_store_dir, store.state_dir):
        if not caller.sees(directory):
            raise AloneOnly(f"'{directory}' is another directory for the broker than for Nix")
    private_dir, reason = _private_directory(own_directory(store.state_dir))
    if reason:
        complaints.append(reason)
    machines, warnings = machines_of(settings, host)
    unknown = [f"unknown setting '{name}'" for machine in machines for name in machine.uri.unknown_parameters]
    notices = Notices(private_dir, caller.parent_pid)
    for warning in complaints + warnings + unknown:
        if notices.first_time(warning):
            log.warning(warning)
    return Services(
        caller=caller,
        config=config,
        settings=settings,
        host=host,
        machines=tuple(machines),
        left_out=bool(warnings),
        limits=limits_of(settings),
        store=store,
        slots=SlotTable(store.state_dir),
        private_dir=private_dir,
        notices=notices,
    )


def _private_directory(path: str) -> tuple[str, str]:
    """The directory of our files: `path`, made if it can be, unless other users could change what is in it.

    Also says why it is another one, if somebody should do something about it.  Here, because whoever needs something
    below it would make it with the mode of any directory.
    """
    with suppress(OSError):
        os.mkdir(path, 0o700)
    try:
        found = os.lstat(path)
    except OSError:
        return path, ""
    changeable = stat.S_ISLNK(found.st_mode) or found.st_mode & 0o022
    if not changeable and found.st_uid in (0, os.geteuid()):
        return path, ""
    from hook.scratch import scratch_directory

    # That root builds in the store of a user is nobody's mistake.
    reason = f"'{path}' is not used, because other users could change what is in it" if changeable else ""
    return scratch_directory(), reason
