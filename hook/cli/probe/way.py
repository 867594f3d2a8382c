"""How ssh gets to a machine by its configuration, and whether name and port there are what is wrong.

ssh itself says where it would go (`ssh -G`).  The name is looked up and the port is tried from here only where ssh does
so, too, and not through another machine.  Tested in test_way.py, and in tests/lab/test_doctor.py.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hook.cli.machine.login import public_key
from hook.cli.probe.together import at_once
from hook.errors import FerryError, MachineError
from hook.machines.builders import Machine
from hook.remote.child import Command
from hook.remote.routes import Routes
from hook.remote.sharing import session_options
from hook.remote.ssh import ssh_configuration

LONGEST_TRY_S = 30.0
"""For one address, if ssh is configured to try longer."""

FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
SSH_PORT = 22
KNOWN_HOSTS = "~/.ssh/known_hosts"
RESOLV_CONF = "/etc/resolv.conf"

PUBLIC = (b"ssh-", b"ecds", b"sk-s", b"sk-e")
"""How public keys begin, as ssh-keygen writes them; a private one begins with dashes."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where ssh goes, and what was found there.

    `through` names what it goes through instead of connecting itself.  `unresolved` is why `host` has no address;
    `closed` are the addresses where nobody answers, with the reason; `open_at` is the one where somebody does.
    `shares` names the control connection of ssh's own configuration, which builds then use instead of one of theirs.
    `error` is why ssh cannot say any of this.  `key` is what is wrong with the keys that it would log in with, and
    `key_fix` what helps.  `known_hosts` is where ssh keeps its host key, `known_as` under which name.
    """

    host: str = ""
    port: int = 22
    user: str = ""
    keys: tuple[str, ...] = ()
    through: str = ""
    unresolved: str = ""
    closed: tuple[tuple[str, str], ...] = ()
    open_at: str = ""
    shares: str = ""
    error: str = ""
    key: str = ""
    key_fix: str = ""
    known_hosts: str = ""
    known_as: str = ""


def ways(machines: Sequence[Machine], routes: Routes) -> list[Way | None]:
    """Look at all of them at once; None for one that is not reached by ssh.

    How long a name may take is up to the resolver, as it is for ssh.
    """
    return at_once(lambda machine: _way(machine, routes), machines)


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
    own, _ = session_options(route, options)
    found = replace(look(options), shares="" if own is not None else options.get("controlpath", ["none"])[0])
    key, key_fix = _key(machine, found)
    name = found.host if found.port == SSH_PORT else f"[{found.host}]:{found.port}"
    files = " ".join(options.get("userknownhostsfile", ())).split() or [KNOWN_HOSTS]
    known = replace(found, known_hosts=os.path.expanduser(files[0]), known_as=options.get("hostkeyalias", [name])[0])
    return replace(known, key=key, key_fix=key_fix)


def _key(machine: Machine, way: Way) -> tuple[str, str]:
    """What is wrong with the key of its line, or else with all those of ssh's configuration, and what helps."""
    column = f"the 3rd column ({machine.origin})"
    if named := machine.ssh_key or machine.uri.parameter("ssh-key", ""):
        return _wrong_with(named, f"name another key in {column}")
    wrong = [_wrong_with(os.path.expanduser(key), f"name another key in {column}") for key in way.keys]
    return wrong[0] if wrong and all(text for text, _ in wrong) else ("", "")


def _wrong_with(key: str, otherwise: str) -> tuple[str, str]:
    if not os.path.exists(key):
        return f"the key '{key}' is not there", f"make it, or {otherwise}"
    if not os.path.isfile(key):
        # To read a pipe would have us wait.
        return f"the key '{key}' is no file", otherwise
    if not os.access(key, os.R_OK):
        return f"the key '{key}' is not for this user to read", f"make it readable, or {otherwise}"
    with open(key, "rb") as file:
        if file.read(len(PUBLIC[0])) in PUBLIC:
            return f"the key '{key}' is a public one", f"name the private one, or {otherwise}"
    try:
        public_key(key)
    except FerryError as error:
        if "passphrase" in str(error):
            return str(error), f"take the passphrase off ('ssh-keygen -p -N \"\" -f {key}'), or {otherwise}"
        if "too open" in str(error):
            return f"ssh refuses the key '{key}', which others may read", f"chmod 600 {key}"
        return str(error), otherwise
    return "", ""


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
