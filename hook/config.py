"""nix-ferry's own settings: `ferry.toml` beside Nix's configuration, read anew for every conversation.

The file is optional, and so is every key.  A file with a mistake in it is not used at all: ConfigurationError says what
is wrong, and the defaults hold.  KEYS is all there is to know about the keys: the table in the README and ferry.toml(5)
are made from it (man/make.py).  Tested in test_config.py.
"""

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from hook.errors import ConfigurationError

Value = bool | int | None

MOST = 1_000_000
"""More than anybody means, and little enough for every program that is told."""

MOST_BYTES = 1 << 20
"""Nobody writes a larger file of settings by hand."""

NULL = os.makedev(1, 3)
"""The device /dev/null."""


@dataclass(frozen=True, slots=True)
class Config:
    """The settings, each with its default."""

    broker: bool = True
    """False: every hook works alone."""
    connect_timeout_s: int = 5
    """When ssh gives up connecting to a machine."""
    look_ahead: int | None = None
    """How many builds may be at a machine, or on their way there, before they can run; None: as many as can run."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its name in the file, its field in Config, and what its reader has to know."""

    name: str
    field: str
    meaning: str
    least: int | None = None
    """The smallest whole number it can have; None if it is a truth value."""
    most: int = MOST
    """The greatest."""
    unset: str = ""
    """What holds without it, if that is no value."""

    @property
    def default(self) -> Value:
        """What it is if the file does not say."""
        value: Value = getattr(Config(), self.field)
        return value

    @property
    def kind(self) -> str:
        """What values it can have, in words."""
        return "true or false" if self.least is None else f"a whole number from {self.least} to {self.most}"

    def check(self, value: object) -> Value:
        """`value`, if the key can have it; otherwise ConfigurationError."""
        # A truth value is an int, too.
        if self.least is None and isinstance(value, bool):
            return value
        if self.least is not None and type(value) is int and self.least <= value <= self.most:
            return value
        raise ConfigurationError(f"'{self.name}' must be {self.kind}")


KEYS = (
    Key(
        "broker",
        "broker",
        "Whether hooks share one process that keeps connections; if not, each hook works alone.",
    ),
    Key(
        "connect-timeout",
        "connect_timeout_s",
        "Seconds until ssh gives up connecting to a machine (`ConnectTimeout`).",
        least=1,
        most=3600,
    ),
    Key(
        "look-ahead",
        "look_ahead",
        "How many builds may have their inputs on a machine, or on the way there, before they run; "
        "with 0, inputs travel only when there is a slot.",
        least=0,
        unset="as many as the machine's jobs",
    ),
)


def config_path(environ: Mapping[str, str]) -> str:
    """Where the file is for somebody with this environment."""
    return os.path.join(environ.get("NIX_CONF_DIR") or "/etc/nix", "ferry.toml")


def find_config(environ: Mapping[str, str]) -> tuple[Config, list[str]]:
    """The settings for somebody with this environment, and a warning if there is a file that cannot be used."""
    try:
        return read_config(config_path(environ)), []
    except ConfigurationError as error:
        return Config(), [str(error)]


def read_config(path: str) -> Config:
    """The settings in the file at `path`; the defaults if there is none."""
    return Config(**{key.field: value for key, value in read_values(path).items()})  # type: ignore[arg-type]


def read_small(path: str, most_bytes: int = MOST_BYTES) -> bytes:
    """What is in a file of settings, which may be named by anybody; OSError if it is not one, or too large.

    Never waits: reading a pipe would, and some devices have no end.  Nothing is in /dev/null.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not (stat.S_ISREG(found.st_mode) or (stat.S_ISCHR(found.st_mode) and found.st_rdev == NULL)):
            raise OSError(errno.EINVAL, "Is a directory" if stat.S_ISDIR(found.st_mode) else "Is not a regular file")
        data = bytearray()
        while len(data) <= most_bytes and (piece := os.read(fd, most_bytes + 1 - len(data))):
            data += piece
    finally:
        os.close(fd)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"Is larger than {most_bytes >> 20} MiB")
    return bytes(data)


def read_values(path: str) -> dict[Key, Value]:
    """What the file at `path` sets; nothing if there is none."""
    try:
        data = read_small(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(f"cannot read '{path}': {error.strerror}; it is ignored") from None
    # Most users have no such file: for them it would be one import more before every first reply.
    from hook.toml import parse_toml

    try:
        text = data.decode()
        return _parse(parse_toml(text), text)
    except UnicodeDecodeError as error:
        *before, last = data[: error.start].decode().split("\n")
        wrong = f"line {len(before) + 1}, column {len(last) + 1}: not UTF-8: {error.reason}"
    except (ValueError, RecursionError, ConfigurationError) as error:
        wrong = str(error)
    raise ConfigurationError(f"'{path}' is ignored: {wrong}") from None


def _parse(values: Mapping[str, object], text: str) -> dict[Key, Value]:
    known = {key.name: key for key in KEYS}
    found = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigurationError(f"{_place(name, text)}unknown key '{name}'; {_suggest(name)}")
        key = known[name]
        try:
            found[key] = key.check(value)
        except ConfigurationError as error:
            raise ConfigurationError(f"{_place(name, text)}{error}") from None
    return found


def _place(name: str, text: str) -> str:
    """The line where a key or a table begins, which no parser tells; empty if it is written in another way."""
    import re

    written = re.compile(rf"""\s*\[*\s*["']?{re.escape(name)}["']?\s*[=.\]]""")
    number = next((number for number, line in enumerate(text.splitlines(), 1) if written.match(line)), None)
    return "" if number is None else f"line {number}: "


def _suggest(name: str) -> str:
    import difflib

    nearest = difflib.get_close_matches(name.replace("_", "-"), [key.name for key in KEYS], n=1, cutoff=0)
    return f"did you mean '{nearest[0]}'?"
