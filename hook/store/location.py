"""Where the local store lies: the `store` setting, its parameters and Nix's environment variables.

Decides only; nothing is opened or created.  Every form of `store` that is not a local store, and every parameter not
understood, is left to the stock hook.  The rules are the rows of store/test_location.py.
"""

import os
from binascii import unhexlify
from collections.abc import Mapping
from dataclasses import dataclass

from hook.errors import StockOnly, StoreError

STATE_DIR = "/nix/var/nix"
"""Where it is without a NIX_STATE_DIR."""

# Parameters that change nothing about how paths are read or added here.
_HARMLESS = frozenset(
    {"build-dir", "path-info-cache-size", "priority", "require-sigs", "system-features", "trusted", "want-mass-query"}
)


@dataclass(frozen=True, slots=True)
class StoreLocation:
    """`store_dir` is in the names of store paths, `real_store_dir` is where they are on disk."""

    store_dir: str
    real_store_dir: str
    state_dir: str
    log_dir: str


def state_dir_of(environ: Mapping[str, str]) -> str:
    """Where a Nix with this environment keeps its state."""
    return environ.get("NIX_STATE_DIR") or STATE_DIR


def own_directory(state_dir: str) -> str:
    """Where hooks keep what is theirs alone, below Nix's state."""
    return os.path.join(state_dir, "nix-ferry")


def daemon_socket(environ: Mapping[str, str], state_dir: str) -> str:
    """Where a daemon listens, if there is one."""
    return environ.get("NIX_DAEMON_SOCKET_PATH") or os.path.join(state_dir, "daemon-socket/socket")


def find_store(uri: str, environ: Mapping[str, str]) -> StoreLocation:
    """The directories of the store that `uri` means; StockOnly if it is no ordinary local store."""
    base, _, query = uri.partition("?")
    parameters = _parse_parameters(query)
    if base.startswith("local://"):
        # How Nix 2.34 passes on every local store that has a parameter or a path.
        base = base.removeprefix("local://") or "local"
    if base.startswith("/"):
        parameters.setdefault("root", base)
    elif base not in ("", "auto", "local"):
        raise StockOnly(f"the store '{uri}' is not a local one")
    store_dir = _first(
        parameters.pop("store", ""), environ.get("NIX_STORE_DIR"), environ.get("NIX_STORE"), "/nix/store"
    )
    root = parameters.pop("root", "")
    if root:
        real, state, log = (os.path.join(root, below) for below in ("nix/store", "nix/var/nix", "nix/var/log/nix"))
    else:
        real = store_dir
        state = state_dir_of(environ)
        log = _first(environ.get("NIX_LOG_DIR"), "/nix/var/log/nix")
    location = StoreLocation(
        store_dir=_absolute(store_dir),
        real_store_dir=_absolute(parameters.pop("real", real)),
        state_dir=_absolute(parameters.pop("state", state)),
        log_dir=_absolute(parameters.pop("log", log)),
    )
    if parameters.pop("read-only", "false") != "false":
        raise StockOnly("the local store is a read-only one")
    for name in parameters.keys() - _HARMLESS:
        raise StockOnly(f"the local store has the parameter '{name}'")
    if base in ("", "auto") and not os.access(location.state_dir, os.R_OK | os.W_OK):
        where = "the store is that of a daemon, or in the home directory"
        raise StockOnly(f"this user may not write to '{location.state_dir}': {where}")
    return location


def _parse_parameters(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for item in filter(None, query.split("&")):
        name, _, value = item.partition("=")
        parameters[_decode(name)] = _decode(value)
    return parameters


def _decode(text: str) -> str:
    """Resolve `%xx`."""
    first, *rest = text.encode("utf-8", "surrogateescape").split(b"%")
    try:
        # Padded, so that too few digits are wrong digits.
        return os.fsdecode(first + b"".join(unhexlify(piece[:2].ljust(2)) + piece[2:] for piece in rest))
    except ValueError:
        raise StoreError(f"'{text}' in the store's parameters is badly encoded") from None


def _first(*values: str | None) -> str:
    return next(value for value in values if value)


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise StockOnly(f"the local store's directory '{path}' is not an absolute path")
    return os.path.normpath(path)
