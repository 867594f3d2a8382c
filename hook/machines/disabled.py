"""Machines that the user has taken out of use for a while: one empty file each in `disabled/` of the private directory.

A file's name stands for the machine's address and its time tells since when, so hooks see a change at once, with or
without a broker, and it survives restarts.  Nothing that runs is stopped.  Tested in test_disabled.py.
"""

import os
import time
from contextlib import suppress

from hook.errors import ConfigurationError
from hook.machines.builders import Machine


class Disabled:
    """The machines that are out of use for hooks with this private directory."""

    def __init__(self, private_dir: str) -> None:
        self._private_dir = private_dir
        self._directory = os.path.join(private_dir, "disabled")

    def since(self, machine: Machine) -> float | None:
        """When `machine` was taken out of use, in seconds since 1970; None if it is in use."""
        try:
            return os.stat(self.file(machine)).st_mtime
        except OSError:
            return None

    def is_visible(self) -> bool:
        """Whether it is for this user to know which machines are out of use."""
        return not os.path.isdir(self._private_dir) or os.access(self._private_dir, os.X_OK)

    def reason(self, machine: Machine) -> str | None:
        """The same in words."""
        since = self.since(machine)
        if since is None:
            return None
        return f"disabled by the user since {time.strftime('%Y-%m-%d %H:%M', time.localtime(since))}"

    def add(self, machine: Machine) -> bool:
        """Take `machine` out of use; False if it was.  ConfigurationError if this is not for us to do."""
        file = self.file(machine)
        try:
            for directory in (self._private_dir, self._directory):
                os.makedirs(directory, 0o700, exist_ok=True)
            return _create(file)
        except OSError as error:
            raise _refused(file, error) from None

    def remove(self, machine: Machine) -> bool:
        """Have `machine` used again; False if it was.  ConfigurationError if this is not for us to do."""
        file = self.file(machine)
        with suppress(FileNotFoundError):
            try:
                os.unlink(file)
            except PermissionError as error:
                raise _refused(file, error) from None
            return True
        return False

    def file(self, machine: Machine) -> str:
        """What exists while `machine` is out of use."""
        # Not as any release renders it: it must stay the same when Nix is replaced.
        return os.path.join(self._directory, machine.uri.text.replace("/", "_"))


def _create(file: str) -> bool:
    try:
        with open(file, "x"):
            return True
    except FileExistsError:
        return False


def _refused(file: str, error: OSError) -> ConfigurationError:
    advice = "; run this as root, as the Nix daemon runs" if isinstance(error, PermissionError) else ""
    return ConfigurationError(f"cannot change '{file}': {error.strerror}{advice}")
