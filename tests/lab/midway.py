"""What tests do to builds that are under way, and what must be left of them afterwards: nothing."""

import fcntl
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from tests.lab.host import Host

HOOK_PROCESS = r"(\S+ )?\S*(nix-ferry-(hook|standalone)|build-remote) \d$"
"""The command of our hook as Nix started it, of what serves it without a broker, and of Nix's own that it became."""

SSH = r"ssh[: ]"
BROKER = r"\S+ \S*nix-ferry-broker"
SSHD_SESSION = r"sshd(-session|-auth)?: (?!/)"
REMOTE_NIX = r"nix-(daemon --stdio|store --serve)"
"""How the commands of the others begin that take part in a session."""


@contextmanager
def running(
    client: Host, command: Sequence[str], environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A command that does not outlive the block."""
    child = client.popen(command, env=environ)
    try:
        yield child
    finally:
        client.end(child)


def held_slots(client: Host) -> list[str]:
    """Return the slots in use, as a hook would find them."""
    held = []
    for file in client.path("/nix/var/nix/current-load").glob("*-[0-9]"):
        with file.open() as slot:
            try:
                fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(file.name)
    return held


def kill(host: Host, pattern: str, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to the processes of `host` whose command matches; at least one must."""
    victims = [process for process, command in host.processes().items() if re.match(pattern, command)]
    assert victims, host.processes()
    for process in victims:
        # What serves a hook alone ends with it.
        with suppress(ProcessLookupError):
            os.kill(process, number)


WARM = (
    r".*nix-ferry-broker|ssh: .* \[mux\]|sshd(-session)?: "
    r"|(ssh .* )?nix-(daemon --stdio|store --serve --write)( --store .*)?$"
)
"""What a broker keeps running between builds, on both sides."""


def is_clean(client: Host, *builders: Host, warm: str = WARM) -> None:
    """Nothing of a build is left: no process, no slot, no path that is registered and not whole.

    A broker may stay, with connections that are ready for the next build; nothing of these outlives it.
    """
    for host in (client, *builders):
        host.wait_idle(but=warm)
    client.stop_broker()
    for host in (client, *builders):
        host.wait_idle()
        host.run(["nix-store", "--verify", "--check-contents"])
    assert held_slots(client) == []
