"""What goes wrong: a Strike for each fault of matrix.py, by its name."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.faults.site import PRELOAD, TAP, Site
from tests.lab.midway import BROKER, HOOK_PROCESS, REMOTE_NIX, SSH, SSHD_SESSION, kill

QUICK = {"NIX_SSHOPTS": "-oServerAliveInterval=1 -oServerAliveCountMax=2"}
PRELOADED = {"LD_PRELOAD": PRELOAD}

Action = Callable[[Site], object]


def nothing(site: Site) -> None:
    """Nothing."""


@dataclass(frozen=True)
class Strike:
    """What happens when the step is reached, when the session goes on, and when the build has ended.

    `act` is what the tap does to the session; the build is run with `environ` and `options`.
    """

    when_reached: Action = nothing
    when_going_on: Action = nothing
    afterwards: Action = nothing
    act: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()


def _on_client(pattern: str, number: signal.Signals = signal.SIGKILL) -> Action:
    return lambda site: kill(site.client, pattern, number)


def _on_machine(pattern: str) -> Action:
    return lambda site: kill(site.first, pattern)


STRIKES = {
    "hook killed": Strike(_on_client(HOOK_PROCESS)),
    "broker killed": Strike(_on_client(BROKER)),
    "ssh killed": Strike(_on_client(SSH)),
    "sshd killed": Strike(_on_machine(SSHD_SESSION)),
    "remote Nix killed": Strike(_on_machine(REMOTE_NIX)),
    "machine rebooted": Strike(Site.shut_down, afterwards=Site.boot),
    "connection reset": Strike(_on_client(rf"\S+ -IS {TAP} ", signal.SIGUSR2)),
    "packets dropped": Strike(_on_client(rf"\S+ -IS {TAP} ", signal.SIGUSR1), environ=QUICK),
    "machine stops reading": Strike(act="deaf", options=("--max-silent-time", "1")),
    "machine sends garbage": Strike(act="garbage"),
    "machine sends half a word": Strike(act="truncated"),
    "machine sends huge lengths": Strike(act="oversized"),
    "machine's disk full": Strike(lambda site: site.fill(site.first), afterwards=lambda site: site.clear(site.first)),
    "collection on the machine": Strike(lambda site: site.first.run(["nix-store", "--gc"])),
    "disk full here": Strike(lambda site: site.fill(site.client), afterwards=lambda site: site.clear(site.client)),
    "writing fails here": Strike(lambda site: site.flag("eio"), environ=PRELOADED),
    "database busy": Strike(Site.lock_database, Site.unlock_database_in_time, Site.unlock_database),
    "database corrupt": Strike(Site.corrupt_database, afterwards=Site.mend_database),
    "machine gone, local jobs allowed": Strike(Site.shut_down, afterwards=Site.boot, options=("-j1",)),
    "network gone, local jobs allowed": Strike(
        _on_client(rf"\S+ -IS {TAP} ", signal.SIGUSR1), environ=QUICK, options=("-j1",)
    ),
    "clock jumps": Strike(lambda site: site.flag("clock"), environ=PRELOADED),
}
