"""nix-ferry's own settings: `ferry.toml` beside Nix's configuration, read anew for every conversation.

The file is optional, and so is every key.  A file with a mistake in it is not used at all: ConfigurationError says what
is wrong, and the defaults hold.  Tested in test_config.py.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from hook.errors import ConfigurationError

Value = TypeVar("Value")

KEYS = ("broker", "connect-timeout", "look-ahead")


@dataclass(frozen=True, slots=True)
class Config:
    """The settings, each with its default."""

    broker: bool = True
    """False: every hook works alone."""
    connect_timeout_s: int = 5
    """When ssh gives up connecting to a machine."""
    look_ahead: int | None = None
    """How many builds may be at a machine, or on their way there, before they can run; None: as many as can run."""


def find_config(environ: Mapping[str, str]) -> tuple[Config, list[str]]:
    """The settings for somebody with this environment, and a warning if there is a file that cannot be used."""
    try:
        return read_config(os.path.join(environ.get("NIX_CONF_DIR") or "/etc/nix", "ferry.toml")), []
    except ConfigurationError as error:
        return Config(), [str(error)]


def read_config(path: str) -> Config:
    """The settings in the file at `path`; the defaults if there is none."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise ConfigurationError(f"cannot read '{path}': {error.strerror}; it is ignored") from None
    # Most users have no such file: for them it would be one import more before every first reply.
    import tomllib

    try:
        return parse_config(tomllib.loads(data.decode()))
    except (ValueError, RecursionError, ConfigurationError) as error:
        raise ConfigurationError(f"'{path}' is ignored: {error}") from None


def parse_config(values: Mapping[str, object]) -> Config:
    """The settings in `values`; ConfigurationError for an unknown key, or a value that its key cannot have."""
    for key in values:
        if key not in KEYS:
            raise ConfigurationError(f"unknown key '{key}'; {_suggest(key)}")
    default = Config()
    return Config(
        broker=_flag(values, "broker", default.broker),
        connect_timeout_s=_number(values, "connect-timeout", default.connect_timeout_s, least=1),
        look_ahead=_number(values, "look-ahead", default.look_ahead, least=0),
    )


def _flag(values: Mapping[str, object], key: str, default: bool) -> bool:
    value = values.get(key, default)
    if not isinstance(value, bool):
        raise ConfigurationError(f"'{key}' must be true or false")
    return value


def _number(values: Mapping[str, object], key: str, default: Value, *, least: int) -> int | Value:
    if key not in values:
        return default
    value = values[key]
    # A truth value is an int, too.
    if type(value) is not int or value < least:
        raise ConfigurationError(f"'{key}' must be a whole number, {least} or more")
    return value


def _suggest(key: str) -> str:
    import difflib

    nearest = difflib.get_close_matches(key.replace("_", "-"), KEYS, n=1, cutoff=0)
    return f"did you mean '{nearest[0]}'?"
