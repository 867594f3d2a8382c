"""Where systemd rules: a unit of its own for the broker, so that no end of another unit or of a session is its own.

The service that `nix-ferry install` writes, for whoever stands where the first process does; elsewhere systemd starts
nothing, and the broker stays where it is and asks for a scope.  That goes for a user's broker, too, with that user's
manager.  Every question is bounded in time, and without an answer the broker is what it would be without systemd.

Source: org.freedesktop.systemd1(5).  Tested in test_systemd.py and, with a real systemd, in tests/environments.
"""

import os
import socket
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from hook.broker.standing import listens, socket_path, standing_of
from hook.store.location import STATE_DIR, own_directory

if TYPE_CHECKING:
    from hook.broker.systemd import Manager

SERVICE = "nix-ferry-broker.service"
DIRECTORY = own_directory(STATE_DIR)
"""Where the service's broker listens."""

START_S = 5.0
SCOPE_S = 2.0
OBJECT = "/org/freedesktop/systemd1/unit/nix_2dferry_2dbroker_2eservice"


def has_started(directory: str, standing: str) -> bool:
    """Whether a broker for those who stand at `standing` listens in `directory` as a service.

    If there can be none, this process has left the unit of whoever started it, as far as that is possible.
    """
    address = "/run/systemd/private" if os.geteuid() == 0 else f"/run/user/{os.geteuid()}/systemd/private"
    if not os.path.exists(address):
        return False
    # Not before: most of the time that it takes is for what speaks D-Bus.
    from hook.broker.systemd import Manager

    try:
        with closing(Manager(address)) as manager:
            if directory == DIRECTORY and standing_of(1) == standing and _start(manager, directory, standing):
                return True
            _enter_scope(manager)
    except OSError:
        pass
    return False


def service(program: str) -> str:
    """The unit, as a file."""
    return f"""\
[Unit]
Description=Broker of nix-ferry, which does the work of Nix's build hooks
Documentation=man:nix-ferry-hook(8)

# Hooks start it, and it ends when nothing has been built for a while.  Nothing is taken from it here: what it may not
# see or do, no build hook could, and hooks would find that it does not stand where they do, and start another one.
[Service]
Type=notify
ExecStart={program} {DIRECTORY}
Restart=on-failure
OOMPolicy=continue
TasksMax=infinity
"""


def say_ready() -> None:
    """Tell systemd, if it has started this process."""
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifying:
        notifying.sendto(b"READY=1", b"\0" + os.fsencode(address[1:]) if address[0] == "@" else os.fsencode(address))


def _start(manager: "Manager", directory: str, standing: str) -> bool:
    """Have the service started, unless it is another installation's."""
    if os.path.realpath(sys.argv[0]) not in manager.commands(OBJECT, SCOPE_S):
        return False
    with suppress(OSError):
        manager.run("StartUnit", "ss", (SERVICE, "replace"), START_S)
    return listens(socket_path(directory, standing))


def _enter_scope(manager: "Manager") -> None:
    properties = [
        ("Description", ("s", "Broker of nix-ferry")),
        ("CollectMode", ("s", "inactive-or-failed")),
        ("PIDs", ("au", [os.getpid()])),
    ]
    name = f"nix-ferry-broker-{os.getpid()}.scope"
    manager.run("StartTransientUnit", "ssa(sv)a(sa(sv))", (name, "fail", properties, []), SCOPE_S)
