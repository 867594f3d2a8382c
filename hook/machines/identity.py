"""Which machine is meant: kinds of addresses, and by what a line of `builders` is known.

Two lines can have the same slots and another health, or stand in one queue and lead elsewhere.  So each question has a
type of its own for its answer, which no other can be taken for.

Source: docs/protocols/machines.md, "Addresses".  Tested in test_routes.py and test_identity.py.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from hook.machines.builders import Machine

if TYPE_CHECKING:
    from hook.machines.schedule import Host
    from hook.values.limits import Limits

SSH_LOOKS_AT = ("HOME", "KRB5CCNAME", "LOGNAME", "NIX_SSHOPTS", "PATH", "SSH_AUTH_SOCK", "USER")
"""The variables by which two callers may mean different machines with one address, whatever ssh is configured to do."""

LOCAL_SCHEMES = ("local", "auto", "daemon", "unix")

REMOTE_PROGRAMS = {"ssh-ng": ("nix-daemon", "--stdio"), "ssh": ("nix-store", "--serve", "--write")}
"""By scheme: the default of `remote-program`, and its arguments."""


class SeenBySsh(NamedTuple):
    """What ssh sees of a caller that may lead it elsewhere, as far as that is known without asking ssh."""

    variables: tuple[tuple[str, str | None], ...]
    scope: Hashable = None
    """What else its configuration depends on."""


class SlotsOf(NamedTuple):
    """Two lines have the same slots if they are for one store and Nix has the same lock files for their addresses."""

    private_dir: str
    lock_stem: str


class HealthOf(NamedTuple):
    """Two lines have the same health if address and keys are the same, ssh sees the same, and the store is the same."""

    uri: str
    ssh_key: str | None
    public_host_key: str | None
    seen: SeenBySsh
    state_dir: str


class QueueOf(NamedTuple):
    """Two builds stand in the same queue if any slot that one of them could use suits the other."""

    private_dir: str
    host: "Host"
    lines: tuple[str, ...]
    system: str
    features: frozenset[str]
    seen: SeenBySsh


class Destination(NamedTuple):
    """Two connections have the same destination if each could do the other's builds.

    They lead to the same place, as the same user, with the same settings, from the same store, and may grow as old.
    """

    way: str | tuple[str, ...]
    """The path of a socket, or a command line."""
    identity: Hashable
    """What ssh makes of its configuration, or all that another command sees."""
    settings: tuple[tuple[str, str], ...]
    """Those that were sent after the connection was made."""
    limits: "Limits"
    machines_substitute: bool
    state_dir: str
    longest_s: float


def ssh_looks_at(environ: Mapping[str, str], scope: Hashable = None) -> SeenBySsh:
    """What ssh sees of `environ`; `scope` stands for what its configuration looks at besides."""
    return SeenBySsh(tuple((name, environ.get(name)) for name in SSH_LOOKS_AT), scope)


def is_handled(machine: Machine) -> bool:
    """Whether there is a way to `machine` other than the stock hook."""
    return machine.uri.scheme in REMOTE_PROGRAMS or machine.uri.scheme in LOCAL_SCHEMES


@dataclass(frozen=True, slots=True)
class MachineInUse:
    """A line of `builders`, by what the services of a broker know it."""

    name: str
    machine: Machine
    health: HealthOf
    at: SlotsOf
    lock_stem: str
    """Of its lock files below `state_dir`."""
    state_dir: str
    private_dir: str
