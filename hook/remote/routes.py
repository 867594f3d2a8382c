"""Which way leads to a machine: ssh, a Nix that runs here and opens the machine's store, or the socket of a daemon.

Opens nothing itself.  A store on this host is opened by a child with the settings Nix sent us, as stock opens it in its
own process with them; a daemon behind a socket is sent them.

Source: docs/protocols/machines.md, "Addresses".  Tested in test_routes.py.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from hook.errors import ConfigurationError, StockOnly
from hook.machines.builders import Machine
from hook.machines.identity import REMOTE_PROGRAMS, is_handled
from hook.remote.child import Command
from hook.remote.ssh import command_for
from hook.store.location import daemon_socket, state_dir_of
from hook.values.release import Release
from hook.values.settings import Settings
from hook.values.storeuri import StoreUri, format_parameters

if TYPE_CHECKING:
    from hook.protocol.options import Options
    from hook.remote.unixsocket import UnixSocket

Route: TypeAlias = "Command | UnixSocket"


NOT_FOR_MACHINES = ("build-hook", "builders", "store")
"""Settings of whoever gives builds away; a machine gives none away."""

IN_OPTIONS = ("cores", "fallback", "keep-failed", "keep-going", "max-jobs", "max-silent-time", "substitute")
"""Settings that have a place of their own in SetOptions."""

NOT_IN_OPTIONS = (*NOT_FOR_MACHINES, *IN_OPTIONS, "experimental-features", "plugin-files", "show-trace")

ANYBODY_MAY_SET = ("connect-timeout", "timeout")
"""A daemon warns about every other setting sent by somebody it does not trust."""

ONLY_AT_START = ("experimental-features", "plugin-files")
"""A daemon does not take these from a connection.  They name features and files, never a secret."""

BLANKS = " \t\n\r"
"""What separates words in a configuration."""

CONFIG_BYTES = 64 << 10
"""At most this much goes into one variable of an environment; Linux takes 128 KiB."""

FEATURES_ADDED: Release = (2, 23)
"""From here on `system-features` of an address are kept next to those of the other columns; before, they were lost."""


class Routes:
    """The ways from one Nix that asks, in process `parent_pid`, to its machines."""

    def __init__(
        self,
        settings: Settings,
        release: Release,
        environ: Mapping[str, str],
        private_dir: str,
        parent_pid: int,
        connect_timeout_s: int,
    ) -> None:
        self._settings = settings
        self._release = release
        self._environ = environ
        self._private_dir = private_dir
        self._parent_pid = parent_pid
        self._connect_timeout_s = connect_timeout_s

    def to(self, machine: Machine, *, verbose: bool = False) -> Route:
        """The way to `machine`, told in detail by ssh if `verbose`; StockOnly if only the stock hook knows it."""
        uri = machine.uri
        if uri.scheme in REMOTE_PROGRAMS:
            timeout_s = self._connect_timeout_s
            return command_for(machine, self._environ, self._private_dir, self._release, timeout_s, verbose=verbose)
        if not is_handled(machine):
            raise StockOnly(f"a machine of the kind '{uri.scheme}'")
        if socket := self._socket(uri):
            from hook.remote.unixsocket import UnixSocket

            return UnixSocket(socket, self._options(trusted=True), self._options(trusted=False))
        return self._child(machine)

    def _socket(self, uri: StoreUri) -> str | None:
        """The socket that `uri` stands for; None if it is a store that is opened directly."""
        if uri.scheme == "unix" and uri.authority + uri.path:
            return os.path.join("/", uri.authority + uri.path)
        state_dir = uri.parameter("state", "") or state_dir_of(self._environ)
        default = daemon_socket(self._environ, state_dir)
        if uri.scheme in ("daemon", "unix"):
            return default
        if uri.scheme == "auto" and not os.access(state_dir, os.R_OK | os.W_OK) and os.path.exists(default):
            return default
        return None

    def _child(self, machine: Machine) -> Command:
        from hook.front.program import find_nix

        program = find_nix(self._parent_pid, self._environ)
        if program is None:
            raise ConfigurationError("the parent process is not Nix, and 'nix' is not in PATH")
        settings = {name: value for name, value in self._settings.items() if name not in NOT_FOR_MACHINES}
        # A machine builds what it is asked to, however many jobs this host has for itself.
        settings |= {"max-jobs": "1", "builders": ""}
        config, odd = "", {}
        for name, value in settings.items():
            line = f"{name} = {value.strip(BLANKS)}\n"
            if _fits_config(value) and len(os.fsencode(config + line)) < CONFIG_BYTES:
                config += line
            else:
                odd[name] = value
        # A command line is for everybody to read: nothing goes there that may hold a secret.
        words = [word for name in ONLY_AT_START if name in odd for word in ("--option", name, odd.pop(name))]
        argv = ("nix-daemon", "--stdio", "--store", store_address(machine, self._release), *words)
        options = replace(self._options(trusted=True), others=odd) if odd else None
        return Command(argv, {**self._environ, "NIX_CONFIG": config}, program, has_settings=True, options=options)

    def _options(self, *, trusted: bool) -> "Options":
        from hook.protocol.options import Options

        s = self._settings
        others = {name: s[name] for name in s if (name not in NOT_IN_OPTIONS if trusted else name in ANYBODY_MAY_SET)}
        return Options(
            keep_failed=s.flag("keep-failed", False),
            keep_going=s.flag("keep-going", False),
            fallback=s.flag("fallback", False),
            max_silent_time_s=s.number("max-silent-time", 0),
            cores=s.number("cores", 0),
            substitute=s.flag("substitute", True),
            others=others,
        )


def is_ssh(route: Route) -> bool:
    """Whether ssh leads there."""
    return isinstance(route, Command) and route.argv[0] == "ssh"


def store_address(machine: Machine, release: Release) -> str:
    """The address of a store on this host, for a Nix that builds there what the columns of `machine` allow."""
    parameters = dict(machine.uri.parameters)
    given = parameters.get("system-features", "").split() if release >= FEATURES_ADDED else []
    parameters["system-features"] = " ".join([*given, *sorted(machine.supported | machine.mandatory)])
    return f"{machine.uri.text.partition('?')[0]}?{format_parameters(parameters.items())}"


def _fits_config(value: str) -> bool:
    """Whether NIX_CONFIG can hold `value`, where a comment begins with `#` and words are all there is.

    Nix writes a blank before a map, as `access-tokens` is one, that means nothing.
    """
    return not {"#", "\0"} & set(value) and " ".join(value.split()) == value.strip(BLANKS)
