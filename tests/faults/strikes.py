"""What goes wrong: a function for each fault of matrix.py, by its name."""

from collections.abc import Callable

from tests.faults.site import Site
from tests.lab.host import Host
from tests.lab.midway import HOOK_PROCESS, kill

SSHD_SESSION = r"sshd(-session|-auth)?: (?!/)"
REMOTE_NIX = r"nix-(daemon --stdio|store --serve)"


def _killing(victim: Callable[[Site], Host], pattern: str) -> Callable[[Site], None]:
    return lambda site: kill(victim(site), pattern)


def _client(site: Site) -> Host:
    return site.client


def _machine(site: Site) -> Host:
    return site.first


STRIKES: dict[str, Callable[[Site], None]] = {
    "hook killed": _killing(_client, HOOK_PROCESS),
    "broker killed": _killing(_client, r"\S+ \S*nix-ferry-broker"),
    "ssh killed": _killing(_client, r"ssh[: ]"),
    "sshd killed": _killing(_machine, SSHD_SESSION),
    "remote Nix killed": _killing(_machine, REMOTE_NIX),
}
