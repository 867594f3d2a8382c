"""The address of a machine's store: `ssh-ng://user@host:port?parameter=value`, a path, or one word.

What one Nix release accepts is accepted for all, and what could reach ssh as an option is refused.  Two things differ
by release: as whom ssh logs in, and `render`, since its text names lock files that stock hooks share with us.
No file, socket or process is touched.

Source: docs/protocols/machines.md, "Addresses"; docs/protocols/ssh.md, "Command lines", "Parameters of an address".
Rules and renderings are rows in test_storeuri.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from hook.errors import ConfigurationError
from hook.values.release import Release
from hook.values.settings import MAX_NUMBER, parse_number

MAX_PORT = (1 << 16) - 1

WORDS = ("auto", "daemon", "local")
"""Stores with a name instead of an address."""

SSH_SCHEMES = ("ssh", "ssh-ng", "mounted-ssh-ng")

RENDERED: Release = (2, 23)
"""Older releases keep the text as it was written."""

AUTHORITY_PARSED: Release = (2, 31)
"""From here on user, host and port are taken apart and encoded again."""

PATH_ENCODED: Release = (2, 32)

NEWEST: Release = (999, 0)
"""Stands for whatever comes."""

UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
SCHEME_CHARACTERS = UNRESERVED - set("_~") | {"+"}
URI_CHARACTERS = UNRESERVED | set(":/?[]@!$&'()*+,;=%\"")
"""What RFC 3986 allows, and the quote that Nix accepts in a query."""

SSH_PARAMETERS = frozenset(
    (
        "base64-ssh-public-host-key",
        "compress",
        "max-connections",
        "path-info-cache-size",
        "priority",
        "remote-program",
        "remote-store",
        "ssh-key",
        "store",
        "system-features",
        "trusted",
        "want-mass-query",
    )
)
KNOWN_PARAMETERS = {
    "ssh": SSH_PARAMETERS | {"log-fd"},
    "ssh-ng": SSH_PARAMETERS | {"max-connection-age"},
}
"""The settings of the kinds of store that we connect to; about others stock warns itself."""


@dataclass(frozen=True, slots=True)
class StoreUri:
    """A parsed address.

    `host` and `path` are decoded and the host has no brackets, as ssh wants them; `user` is the name to log in
    with, `authority` is `[user@]host[:port]` as written.  Parameters are sorted by name.
    """

    text: str
    scheme: str
    authority: str = ""
    user: str | None = None
    password: str | None = None
    host: str = ""
    port: int | None = None
    path: str = ""
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def is_plain_localhost(self) -> bool:
        """Whether stock would run the remote program here instead of going through ssh."""
        return self.authority == "localhost"

    @property
    def unknown_parameters(self) -> tuple[str, ...]:
        """The parameters that a store reached by ssh does not have; stock warns about them and goes on."""
        known = KNOWN_PARAMETERS.get(self.scheme)
        return () if known is None else tuple(name for name, _ in self.parameters if name not in known)

    def parameter(self, name: str, default: str) -> str:
        """The decoded value of a parameter."""
        return dict(self.parameters).get(name, default)

    def flag(self, name: str, default: bool) -> bool:
        """A parameter that is `true`, `yes`, `1` or `false`, `no`, `0`."""
        value = dict(self.parameters).get(name)
        if value is None:
            return default
        if value in ("true", "yes", "1"):
            return True
        if value in ("false", "no", "0"):
            return False
        raise ConfigurationError(f"parameter '{name}' is '{value}', expected 'true' or 'false'")

    def number(self, name: str, default: int) -> int:
        """A parameter that is a whole number."""
        value = dict(self.parameters).get(name)
        if value is None:
            return default
        number = parse_number(value, MAX_NUMBER)
        if number is None:
            raise ConfigurationError(f"parameter '{name}' is '{value}', expected a whole number")
        return number

    def render(self, release: Release) -> str:
        """The text under which a parent of that release knows this store."""
        if release < RENDERED:
            return self.text
        query = format_parameters(self.parameters)
        return self._render_place(release) + ("?" + query if query else "")

    def lock_stem(self, release: Release) -> str:
        """What the names of this machine's files in `current-load` begin with."""
        return self.render(release).replace("/", "_")

    def _render_place(self, release: Release) -> str:
        word = self.text.partition("?")[0]
        if word in ("", "auto"):
            return "auto"
        if word in WORDS:
            bare = release >= AUTHORITY_PARSED and not self.parameters
            return word if bare else {"daemon": "unix://", "local": "local://"}[word]
        authority, path = self.authority, self.path
        if release >= AUTHORITY_PARSED:
            authority = self._encoded_authority()
        if release >= PATH_ENCODED:
            path = "/".join(_encode(segment, ":@") for segment in path.split("/"))
        return f"{self.scheme}://{authority}{path}"

    def _encoded_authority(self) -> str:
        userinfo = "" if self.user is None else _encode(self.user)
        if self.password is not None:
            userinfo += ":" + _encode(self.password)
        host = f"[{_encode(self.host, ':')}]" if ":" in self.host else _encode(self.host)
        return userinfo + ("@" if self.user is not None else "") + host + (f":{self.port}" if self.port else "")


def parse_store_uri(text: str, release: Release = NEWEST) -> StoreUri:
    """Parse the first field of a line of `builders`; a name that is no address at all is a host for ssh."""
    base, _, query = text.partition("?")
    if "://" not in text and "/" not in text and base not in ("", *WORDS):
        text, base = f"ssh://{text}", f"ssh://{base}"
    parameters = _parse_query(query)
    scheme, separator, rest = base.partition("://")
    authority, slash, path = rest.partition("/")
    if not separator:
        if base in ("", *WORDS):
            return StoreUri(text=text, scheme=base or "auto", parameters=parameters)
        if "/" not in base:
            raise ConfigurationError(f"'{base}' is neither an address nor a path, expected 'ssh://{base}'")
        scheme, separator, path = base.partition(":")
        if not separator or "/" in scheme:
            return StoreUri(text=text, scheme="local", path=_absolute(base), parameters=parameters)
    if not scheme or not scheme[0].isalpha() or not SCHEME_CHARACTERS.issuperset(scheme):
        raise ConfigurationError(f"'{scheme}' is no URI scheme, expected for example 'ssh-ng'")
    if forbidden := set(text) - URI_CHARACTERS:
        raise ConfigurationError(f"{min(forbidden)!r} cannot stand in a URI, expected it percent-encoded")
    user, password, host, port = _parse_authority(authority, release)
    uri = StoreUri(text, scheme, authority, user, password, host, port, _decode(slash + path), parameters)
    if scheme in SSH_SCHEMES:
        _check_for_ssh(uri)
    return uri


def format_parameters(parameters: Iterable[tuple[str, str]]) -> str:
    """What stands behind the `?` of an address."""
    return "&".join(f"{_encode(name, ':@/?')}={_encode(value, ':@/?')}" for name, value in parameters)


def _parse_query(query: str) -> tuple[tuple[str, str], ...]:
    parameters: dict[str, str] = {}
    for item in query.split("&"):
        name, separator, value = item.partition("=")
        # As in stock the first one of a name counts, and a name without a value is ignored.
        if separator:
            parameters.setdefault(_decode(name), _decode(value))
    return tuple(sorted(parameters.items()))


def _parse_authority(authority: str, release: Release) -> tuple[str | None, str | None, str, int | None]:
    """User, password, host and port."""
    userinfo, at, place = authority.rpartition("@")
    user: str | None = None
    password: str | None = None
    if at and release < AUTHORITY_PARSED:
        # To ssh all of it is a name: `user:target` is what some bastions take for a login.
        user = userinfo
    elif at:
        user, colon, secret = userinfo.partition(":")
        user, password = _decode(user), _decode(secret) if colon else None
    if place.startswith("["):
        address, bracket, port = place[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ConfigurationError(f"'{place}' is no host, expected '[IPv6 address]' or '[IPv6 address]:port'")
        return user, password, _parse_ipv6(address, bracketed=True), _parse_port(port[1:])
    if place.count(":") > 1:
        return user, password, _parse_ipv6(place, bracketed=False), None
    host, _, port = place.partition(":")
    return user, password, _decode(host), _parse_port(port)


def _parse_ipv6(address: str, *, bracketed: bool) -> str:
    import ipaddress

    number, percent, zone = address.partition("%")
    if bracketed and zone.startswith("25") and len(zone) > 2:
        zone = _decode(zone[2:])
    try:
        ipaddress.IPv6Address(number)
    except ValueError:
        raise ConfigurationError(f"'{number}' is no IPv6 address") from None
    return number + percent + zone


def _parse_port(port: str) -> int | None:
    if not port:
        return None
    number = parse_number(port, MAX_PORT)
    if not number:
        raise ConfigurationError(f"port '{port}' is invalid, expected a number from 1 to {MAX_PORT}")
    return number


def _check_for_ssh(uri: StoreUri) -> None:
    """Refuse what ssh would take for an option, or what could never be a host."""
    if not uri.host:
        raise ConfigurationError("the host name is empty")
    if uri.user == "":
        raise ConfigurationError("the user name is empty")
    for kind, name in (("host", uri.host), ("user", uri.user or "")):
        if name.startswith("-"):
            raise ConfigurationError(f"{kind} name '{name}' must not start with '-'")
        if not name.isprintable() or " " in name:
            raise ConfigurationError(f"{kind} name {name!r} contains a space or control character")
    if uri.path not in ("", "/"):
        raise ConfigurationError(f"'{uri.path}' after the host has no meaning for {uri.scheme}, expected 'host:port'")


def _absolute(path: str) -> str:
    """`path` seen from `/`, the hook's working directory, without `.`, `..` and doubled slashes."""
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    return "/" + "/".join(segments)


def _decode(text: str) -> str:
    if "%" not in text:
        return text
    first, *escapes = text.split("%")
    decoded = first.encode(errors="surrogateescape")
    for escape in escapes:
        digits, rest = escape[:2], escape[2:]
        if len(digits) < 2 or not HEX_DIGITS.issuperset(digits) or digits == "00":
            raise ConfigurationError(f"'%{digits}' is no percent-encoded character")
        decoded += bytes.fromhex(digits) + rest.encode(errors="surrogateescape")
    return decoded.decode(errors="surrogateescape")


def _encode(text: str, kept: str = "") -> str:
    return "".join(
        character
        if character in UNRESERVED or character in kept
        else "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogateescape"))
        for character in text
    )
