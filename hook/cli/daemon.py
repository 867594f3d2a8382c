"""The Nix daemon of this host, as far as another process can see it: whether it is used, and with which environment."""

import os
from collections.abc import Mapping

from hook.settings import Settings

STATE_DIR = "/nix/var/nix"
NAMES_SETTINGS = ("HOME=", "NIX_", "XDG_CONFIG_")


def is_used(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Whether Nix commands of this process leave building to a daemon, by the rules of `store = auto`."""
    store = settings.text("store")
    if store in ("", "auto"):
        store = environ.get("NIX_REMOTE") or "auto"
    if store == "auto":
        state_dir = environ.get("NIX_STATE_DIR") or STATE_DIR
        return not os.access(state_dir, os.R_OK | os.W_OK) and os.path.exists(_socket(environ, state_dir))
    return store == "daemon" or store.startswith("unix://")


def serves(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Whether this host has a daemon that builds for its users, though root itself may do without."""
    state_dir = environ.get("NIX_STATE_DIR") or STATE_DIR
    return is_used(settings, environ) or (os.geteuid() == 0 and os.path.exists(_socket(environ, state_dir)))


def environment(environ: Mapping[str, str]) -> dict[str, str] | None:
    """What makes a Nix command read the settings of the running daemon; None if there is none or it is not ours to see.

    Anybody can call a process `nix-daemon`: only root's counts, and of its environment only what names settings.
    """
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            if os.stat(f"/proc/{pid}").st_uid != 0:
                continue
            with open(f"/proc/{pid}/comm") as file:
                if file.read().strip() != "nix-daemon":
                    continue
            with open(f"/proc/{pid}/environ", "rb") as file:
                entries = os.fsdecode(file.read()).split("\0")
        except OSError:
            continue
        found = dict(entry.partition("=")[::2] for entry in entries if entry.startswith(NAMES_SETTINGS))
        # The commands that tell its settings must not ask the daemon itself.
        return {"HOME": "/root", **found, "PATH": environ.get("PATH", ""), "NIX_REMOTE": "local"}
    return None


def _socket(environ: Mapping[str, str], state_dir: str) -> str:
    return environ.get("NIX_DAEMON_SOCKET_PATH") or os.path.join(state_dir, "daemon-socket/socket")
