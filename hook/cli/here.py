"""This host as a command finds it: the settings of its Nix, the machines they name, and where hooks keep their files.

Each part is asked for when it is first needed, and once.  Tested in cli/test_here.py.
"""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property

import click

from hook.cli import nix
from hook.config import Config, find_config
from hook.errors import FerryError
from hook.machines.builders import Machine
from hook.machines.configured import host_of, machines_of
from hook.machines.disabled import Disabled
from hook.machines.schedule import Host
from hook.machines.slots import SlotTable
from hook.remote.routes import Routes
from hook.store.location import own_directory, state_dir_of
from hook.values.settings import Settings


class Here:
    """This host, as if its Nix had these `options`, for somebody with this environment."""

    def __init__(self, options: nix.Options = (), environ: Mapping[str, str] = os.environ) -> None:
        self.options = options
        self.environ = environ

    @cached_property
    def settings(self) -> Settings:
        """Nix's settings; NixError if it does not tell them."""
        return nix.settings(self.options, self.environ)

    @cached_property
    def host(self) -> Host:
        """What this host could build itself."""
        return host_of(self.settings)

    @cached_property
    def _builders(self) -> tuple[list[Machine], list[str]]:
        return machines_of(self.settings, self.host)

    @property
    def machines(self) -> list[Machine]:
        """Those of `builders`."""
        return self._builders[0]

    @property
    def warnings(self) -> list[str]:
        """One for each line of `builders` that cannot be used."""
        return self._builders[1]

    @cached_property
    def _config(self) -> tuple[Config, list[str]]:
        return find_config(self.environ)

    @property
    def config(self) -> Config:
        """The hook's own settings."""
        return self._config[0]

    @property
    def complaints(self) -> list[str]:
        """What is wrong with ferry.toml, so that it is not used."""
        return self._config[1]

    @cached_property
    def state_dir(self) -> str:
        """Nix's state directory, where hooks keep their locks."""
        return state_dir_of(self.environ)

    @cached_property
    def private_dir(self) -> str:
        """The hooks' own directory, made if need be, or one that goes with this command where that is not for us."""
        directory = own_directory(self.state_dir)
        if os.access(self.state_dir, os.W_OK):
            os.makedirs(directory, 0o700, exist_ok=True)
            return directory
        import tempfile

        passing = tempfile.TemporaryDirectory(prefix="nix-ferry-")
        click.get_current_context().call_on_close(passing.cleanup)
        return passing.name

    @cached_property
    def disabled(self) -> Disabled:
        """The machines that are out of use for the hooks of this host."""
        return Disabled(own_directory(self.state_dir))

    @cached_property
    def slots(self) -> SlotTable:
        """The slots of its machines."""
        return SlotTable(self.state_dir)

    @cached_property
    def routes(self) -> Routes:
        """The ways to its machines."""
        timeout_s = self.config.connect_timeout_s
        return Routes(self.settings, self.host.release, self.environ, self.private_dir, os.getpid(), timeout_s)

    def address(self, machine: Machine) -> str:
        """What `machine` is called in messages."""
        return machine.uri.render(self.host.release)

    def named(self, name: str) -> list[Machine]:
        """The machines with this address or on this host; FerryError if there is none."""
        found = [m for m in self.machines if name in (m.uri.text, m.uri.host, m.text.split()[0], self.address(m))]
        if not found:
            others = ", ".join(f"'{self.address(machine)}'" for machine in self.machines) or "none at all"
            raise FerryError(f"no machine of 'builders' is called '{name}'; there are: {others}")
        return found

    def like(self, words: Sequence[str]) -> list[Machine]:
        """The machines whose address contains one of `words`, or all without any; FerryError if there is none."""
        chosen = [m for m in self.machines if not words or any(word in m.uri.text for word in words)]
        if not chosen:
            known = self.machines
            raise FerryError("no machine of 'builders' matches" if known else "no machine is configured in 'builders'")
        return chosen

    def busy(self, machine: Machine) -> int:
        """How many of its slots are in use, by whatever hooks of this host; FerryError if that is not ours to see."""
        return self.slots.busy(machine.uri.lock_stem(self.host.release), machine.max_jobs)
