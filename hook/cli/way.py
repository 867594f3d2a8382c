"""How ssh gets to a machine by its configuration, and whether name and port there are what is wrong.

ssh itself says where it would go (`ssh -G`).  The name is looked up and the port is tried from here only where ssh does
so, too, and not through another machine.  Tested in test_way.py, and in tests/lab/test_doctor.py.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from hook.errors import FerryError, MachineError
from hook.machines import Machine
from hook.routes import Routes
from hook.transport import Command, ssh_configuration

LONGEST_TRY_S = 30.0
"""For one address, if ssh is configured to try longer."""

FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
RESOLV_CONF = "/etc/resolv.conf"


@dataclass(frozen=True, slots=True)
class Way:
    """Where ssh goes, and what was found there.

    `through` names what it goes through instead of connecting itself.  `unresolved` is why `host` has no address;
    `closed` are the addresses where nobody answers, with the reason; `open_at` is the one where somebody does.
    `error` is why ssh cannot say any of this.
    """

    host: str = ""
    port: int = 22
    user: str = ""
    keys: tuple[str, ...] = ()
    through: str = ""
    unresolved: str = ""
    closed: tuple[tuple[str, str], ...] = ()
    open_at: str = ""
    error: str = ""


def ways(machines: Sequence[Machine], routes: Routes) -> list[Way | None]:
    """Look at all of them at once; None for one that is not reached by ssh.

    How long a name may take is up to the resolver, as it is for ssh.
    """

    def one(machine: Machine) -> Way | None:
        return _way(machine, routes)

    with ThreadPoolExecutor(max_workers=max(len(machines), 1)) as threads:
        return list(threads.map(one, machines))


def _way(machine: Machine, routes: Routes) -> Way | None:
    try:
        route = routes.to(machine)
    except FerryError:
        return None
    if not isinstance(route, Command) or "--" not in route.argv:
        return None
    try:
        options = ssh_configuration(route)
    except MachineError as error:
        return Way(error=error.one_line)
    return look(options)


def look(options: Mapping[str, Sequence[str]]) -> Way:
    """Go the way that these options of ssh describe as far as an open port."""

    def option(name: str, default: str = "") -> str:
        return options.get(name, [default])[0]

    host, port, user = option("hostname"), int(option("port", "22")), option("user")
    keys = tuple(file for file in options.get("identityfile", ()) if os.path.exists(os.path.expanduser(file)))
    for name, title in (("proxyjump", "ProxyJump"), ("proxycommand", "ProxyCommand")):
        if (through := option(name, "none")) != "none":
            return Way(host, port, user, keys, through=f"{title} {through}")
    try:
        family = FAMILIES.get(option("addressfamily"), socket.AF_UNSPEC)
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return Way(host, port, user, keys, unresolved=getattr(error, "strerror", None) or str(error))
    limit = option("connecttimeout")
    timeout_s = min(float(limit) if limit.isdigit() else LONGEST_TRY_S, LONGEST_TRY_S)
    closed = []
    for address_family, _, _, _, address in found:
        if why := _refused(address_family, address, timeout_s):
            closed.append((str(address[0]), why))
        else:
            return Way(host, port, user, keys, closed=tuple(closed), open_at=str(address[0]))
    return Way(host, port, user, keys, closed=tuple(closed))


def _refused(family: int, address: tuple[object, ...], timeout_s: float) -> str:
    """Why nobody answers there; empty if somebody does."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(address)
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def resolver() -> str:
    """Whom this host asks for names, in words."""
    try:
        with open(RESOLV_CONF) as file:
            words = [line.split() for line in file]
    except OSError as error:
        return f"{RESOLV_CONF}: {error.strerror}"
    servers = [line[1] for line in words if line[:1] == ["nameserver"] and len(line) > 1]
    return f"{RESOLV_CONF}: {', '.join(servers) or 'no nameserver'}"
