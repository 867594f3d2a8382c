"""The Nix daemon of this host, as far as another process can see it: whether it is used, and where its settings are.

Anybody can call a process `nix-daemon`, and some programs run as root for anybody who asks, with that user's
environment.  Root acts on these settings: so a process counts as the daemon only if it is root's in every respect and
runs Nix, and of what its environment names only what root alone can change.  Tested in test_daemon.py and in the lab.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from hook.cli.install.rootonly import ROOT, only_root_changes
from hook.errors import FerryError
from hook.store.location import daemon_socket, state_dir_of
from hook.values.settings import Settings

SYSTEMD = "/run/systemd/system"
"""Exists where systemd is the first process."""

UNIT = "nix-daemon.service"
SYSTEMCTL_TIMEOUT_S = 30.0

PATHS = ("HOME", "NIX_CONF_DIR", "NIX_USER_CONF_FILES", "XDG_CONFIG_DIRS", "XDG_CONFIG_HOME")
"""Variables that say where settings are; each holds paths with a colon between them."""

DEFAULT_CONF_DIR = "/etc/nix"

NAMES_SETTINGS = (*PATHS, "NIX_CONFIG")


def is_used(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Whether Nix commands of this process leave building to a daemon, by the rules of `store = auto`."""
    store = settings.text("store")
    if store in ("", "auto"):
        store = environ.get("NIX_REMOTE") or "auto"
    if store == "auto":
        state_dir = state_dir_of(environ)
        return not os.access(state_dir, os.R_OK | os.W_OK) and os.path.exists(daemon_socket(environ, state_dir))
    return store == "daemon" or store.startswith("unix://")


def serves(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Whether this host has a daemon that builds for its users, though root itself may do without."""
    socket = daemon_socket(environ, state_dir_of(environ))
    return is_used(settings, environ) or (os.geteuid() == 0 and os.path.exists(socket))


def environment(environ: Mapping[str, str]) -> dict[str, str] | None:
    """What makes a Nix command read the settings of the running daemon; None if there is none or it is not ours to see.

    FerryError if the daemon has settings from where others than root could write them.
    """
    for pid in _candidates():
        if (found := _environment_of(pid, environ)) is None:
            continue
        for name, path in _paths(found):
            if not only_root_changes(path):
                raise FerryError(
                    f"the Nix daemon (process {pid}) has '{name}={found[name]}', which others than root can "
                    "change: nothing is read from there"
                )
        # The commands that tell its settings must not ask the daemon itself.
        return {"HOME": "/root", **found, "PATH": environ.get("PATH", ""), "NIX_REMOTE": "local"}
    return None


def started(environ: Mapping[str, str]) -> float | None:
    """When the running daemon was started, in seconds since 1970; None if there is none or it is not ours to see."""
    for pid in _candidates():
        if _environment_of(pid, environ) is not None:
            with suppress(OSError, ValueError, IndexError):
                return _started(pid)
    return None


def _started(pid: int) -> float:
    with open("/proc/uptime") as file:
        now, uptime = time.time(), float(file.read().split()[0])
    with open(f"/proc/{pid}/stat", "rb") as process:
        # The second field, the command's name, is in parentheses and may contain anything; the start is field 22.
        ticks = int(process.read().rpartition(b")")[2].split()[19])
    return now - uptime + ticks / os.sysconf("SC_CLK_TCK")


def _candidates() -> Iterator[int]:
    """Processes that may be the daemon; where systemd starts it, systemd knows which it is."""
    if os.path.isdir(SYSTEMD) and (pid := _main_pid()):
        yield pid
        return
    yield from sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def _main_pid() -> int | None:
    """The process of the daemon's unit; None if there is none."""
    command = ["systemctl", "show", "--property=MainPID", "--value", UNIT]
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SYSTEMCTL_TIMEOUT_S).stdout
        return int(shown) or None
    return None


def _environment_of(pid: int, environ: Mapping[str, str]) -> dict[str, str] | None:
    """The variables of process `pid` that name settings; None unless it is a Nix daemon that root started."""
    with suppress(OSError, ValueError), _pinned(pid) as process:
        with open(f"{process}/comm") as file:
            if file.read().strip() != "nix-daemon":
                return None
        if not _is_roots(process) or not _runs_nix(process, environ):
            return None
        with open(f"{process}/environ", "rb") as file:
            entries = os.fsdecode(file.read()).split("\0")
        variables = dict(entry.partition("=")[::2] for entry in entries)
        found = {name: value for name, value in variables.items() if name in NAMES_SETTINGS}
        paths = ("/", DEFAULT_CONF_DIR, *(path for _, path in _paths(found)))
        return found if all(_sees_the_same(process, path) for path in paths) else None
    return None


def _paths(variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The name of each variable that says where settings are, with each of its paths."""
    for name in PATHS:
        yield from ((name, path) for path in variables.get(name, "").split(":") if path)


def _sees_the_same(process: str, path: str) -> bool:
    """Whether `path` is the same file for a process as for us, or missing for both.

    A Nix daemon always has a mount namespace of its own, so that alone tells nothing.
    """
    theirs = f"{process}/root{path}"
    try:
        return os.path.samefile(theirs, path)
    except OSError:
        return not os.path.exists(theirs) and not os.path.exists(path)


@contextmanager
def _pinned(pid: int) -> Iterator[str]:
    """The directory of a process in /proc, by a path that never leads to another process of that number."""
    fd = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _is_roots(process: str) -> bool:
    """Whether all four user ids of a process are root's, and root is for it who it is for us.

    A program that is set-user-id keeps the real id of its user, and with it the environment that this user chose.
    """
    with open(f"{process}/status") as file:
        (ids,) = [line.split()[1:] for line in file if line.startswith("Uid:")]
    return {int(each) for each in ids} == {ROOT} and os.path.samefile(f"{process}/ns/user", "/proc/self/ns/user")


def _runs_nix(process: str, environ: Mapping[str, str]) -> bool:
    """Whether a process runs the Nix in PATH, or one that root put elsewhere, and nobody else could have changed."""
    running = f"{process}/exe"
    found = os.stat(running)
    if found.st_uid != ROOT or found.st_mode & 0o022:
        return False
    in_path = shutil.which("nix", path=environ.get("PATH"))
    if in_path and os.path.samefile(in_path, running):
        return True
    path = os.readlink(running)
    return os.path.basename(path).startswith("nix") and only_root_changes(path)
