"""Which machine is meant: kinds of addresses, and by what a line of `builders` is known.

Source: machines.md section 2.  Tested in test_routes.py.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from hook.machines.builders import Machine

SSH_LOOKS_AT = ("HOME", "KRB5CCNAME", "LOGNAME", "NIX_SSHOPTS", "PATH", "SSH_AUTH_SOCK", "USER")
"""The variables by which two callers may mean different machines with one address, whatever ssh is configured to do."""

LOCAL_SCHEMES = ("local", "auto", "daemon", "unix")


def ssh_looks_at(environ: Mapping[str, str]) -> Hashable:
    """What ssh sees of `environ` that may lead it elsewhere, as far as is known without asking it."""
    return tuple((name, environ.get(name)) for name in SSH_LOOKS_AT)


def is_handled(machine: Machine) -> bool:
    """Whether there is a way to `machine` other than the stock hook."""
    return machine.uri.scheme in REMOTE_PROGRAMS or machine.uri.scheme in LOCAL_SCHEMES


REMOTE_PROGRAMS = {"ssh-ng": ("nix-daemon", "--stdio"), "ssh": ("nix-store", "--serve", "--write")}
"""By scheme: the default of `remote-program`, and its arguments."""


@dataclass(frozen=True, slots=True)
class MachineInUse:
    """A line of `builders`, by what the services of a broker know it."""

    name: str
    machine: Machine
    health: Hashable
    """As Health knows it."""
    at: Hashable
    """As LookAhead knows its slots."""
    lock_stem: str
    """Of its lock files below `state_dir`."""
    state_dir: str
    private_dir: str
