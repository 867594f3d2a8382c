"""Where `build-hook` has to be set so that whoever builds on this host reads it, which depends on the release of Nix.

Asks and looks; changes nothing.  Tested in tests/cli/install/test_where.py and, with real daemons, in
tests/lab/test_install.py.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping

from hook.broker import unit
from hook.broker.identity import programs
from hook.cli import daemon, nix
from hook.cli.change import read_text
from hook.cli.install.rootonly import only_root_changes
from hook.errors import FerryError
from hook.values.settings import Settings

HOOK = "nix-ferry-hook"
LIBEXEC = "/usr/local/libexec/nix-ferry"
"""Where root's hook lies, outside of what is installed."""

IGNORES_NIX_CONF = ((2, 25), (2, 34))
"""From the first of these releases up to the second, Nix overwrites `build-hook` of the system's nix.conf."""

CLOCKS_DIFFER_S = 0.1
"""Starts of processes and writes of files are told by clocks of several grains."""

DROP_IN = f"/etc/systemd/system/{daemon.UNIT}.d/nix-ferry.conf"
SERVICE_FILE = f"/etc/systemd/system/{unit.SERVICE}"

MANAGED = "nix.custom.conf"
"""What Determinate Nix leaves to its user; it writes nix.conf itself, and includes this."""


def own_hook() -> str:
    """Where the hook is that was installed with this command."""
    return os.path.join(programs(), HOOK)


def hook_path() -> str:
    """Where Nix is to find it: outside of what is installed, unless that is Nix's own to replace."""
    if own_hook().startswith("/nix/store/"):
        return own_hook()
    home = os.environ.get("HOME") or "/root"
    return os.path.join(LIBEXEC if os.geteuid() == 0 else f"{home}/.local/libexec/nix-ferry", HOOK)


def hook_program() -> str:
    """The same, as something that Nix can be told to run."""
    program = hook_path()
    if not os.access(own_hook(), os.X_OK):
        raise FerryError(f"there is no {HOOK} beside '{sys.argv[0]}': install nix-ferry as a whole")
    if set(program) & set(" \t\n#"):
        raise FerryError(
            f"'{program}' has a space or a '#' in it, which Nix does not take: install nix-ferry elsewhere"
        )
    return program


def is_hook(value: str) -> bool:
    """Whether `build-hook` with this value means a hook of ours, whichever."""
    program = value.split(maxsplit=1)[0] if value else ""
    return os.path.basename(os.path.realpath(program)) == HOOK


def ignores_nix_conf(release: str) -> bool:
    """Whether a Nix of this release does not read `build-hook` in the system's nix.conf."""
    first, fixed = IGNORES_NIX_CONF
    return first <= _numbers(release) < fixed


def environment_of_builds(served: bool) -> Mapping[str, str]:
    """What whoever builds reads its settings with: the daemon, or a command of this user."""
    if not served:
        return os.environ
    return daemon.environment(os.environ) or {
        "HOME": "/root",
        "PATH": os.environ.get("PATH", ""),
        "NIX_REMOTE": "local",
        **{name: value for name, value in os.environ.items() if name == "NIX_CONF_DIR"},
    }


def conf_file(environ: Mapping[str, str], release: str, served: bool) -> str:
    """The file in which whoever builds reads `build-hook`: the system's, or the user's where that is not for us."""
    if ignores_nix_conf(release) or (not served and os.geteuid() != 0):
        return user_conf_file(environ)
    return system_conf_file(environ)


def system_conf_file(environ: Mapping[str, str]) -> str:
    """`nix.conf` of the host, or what it includes for us to change."""
    directory = environ.get("NIX_CONF_DIR") or "/etc/nix"
    path = os.path.join(directory, "nix.conf")
    included = {tuple(line.split()) for line in (read_text(path) or "").splitlines()}
    if included & {("include", MANAGED), ("!include", MANAGED)}:
        return os.path.join(directory, MANAGED)
    return path


def user_conf_file(environ: Mapping[str, str]) -> str:
    """The file of the user that Nix reads last."""
    if files := environ.get("NIX_USER_CONF_FILES"):
        return files.split(":")[0]
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME") or "/root", ".config")
    return os.path.join(home, "nix", "nix.conf")


def settings_files(environ: Mapping[str, str]) -> list[str]:
    """All files from which a Nix that starts now has settings, those that others include as well."""
    directory = environ.get("NIX_CONF_DIR") or "/etc/nix"
    found: list[str] = []
    pending = [os.path.join(directory, "nix.conf"), user_conf_file(environ)]
    while pending:
        path = pending.pop(0)
        if path in found or not os.path.exists(path):
            continue
        found.append(path)
        for words in map(str.split, (read_text(path) or "").splitlines()):
            if len(words) == 2 and words[0] in ("include", "!include"):
                pending.append(os.path.join(os.path.dirname(path), words[1]))
    return found


def changed_since(moment: float, environ: Mapping[str, str]) -> str | None:
    """One of these files that was written after `moment`, or of which a link was laid; None if there is none."""
    for path in settings_files(environ):
        if max(os.stat(path).st_mtime, os.lstat(path).st_mtime) > moment + CLOCKS_DIFFER_S:
            return path
    return None


def not_read_yet(environ: Mapping[str, str]) -> str:
    """What the running daemon, which has `environ`, cannot know, in words; empty if it has read all that there is."""
    moment = daemon.started(os.environ)
    changed = None if moment is None else changed_since(moment, environ)
    return f"'{changed}' was written after it started, which is when it reads that" if changed else ""


def has_systemd() -> bool:
    """Whether systemd starts the daemon."""
    return os.path.isdir(daemon.SYSTEMD)


def drop_in(hook: str) -> str:
    """What the daemon's unit needs where Nix reads the line in its environment only."""
    return f'[Service]\nEnvironment="NIX_CONFIG=build-hook = {hook}"\n'


def broker_program() -> str:
    """The broker that was installed with this command."""
    return os.path.join(os.path.dirname(os.path.realpath(sys.argv[0])), "nix-ferry-broker")


def changeable(*programs: str) -> str | None:
    """What root's builds would run of us, or of `programs`, that others than root can change; None if nothing."""
    if os.geteuid() != 0:
        return None
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return next((path for path in (*programs, package) if not only_root_changes(path)), None)


def unit_nix_config() -> str | None:
    """`NIX_CONFIG` as the daemon's unit sets it; None if it does not."""
    command = ["systemctl", "show", "--property=Environment", "--value", daemon.UNIT]
    try:
        shown = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=True, timeout=nix.TIMEOUT_S
        ).stdout
        entries = dict(word.partition("=")[::2] for word in shlex.split(shown))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return entries.get("NIX_CONFIG")


def effective(environ: Mapping[str, str]) -> Settings:
    """The settings that a Nix reads which starts now."""
    return nix.settings((), environ)


def _numbers(release: str) -> tuple[int, int]:
    major, minor, *_ = (*release.split("."), "0")
    return int(major), int("".join(digit for digit in minor if digit.isdigit()) or 0)
