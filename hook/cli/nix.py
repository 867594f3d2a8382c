"""Ask the Nix of this host, by its command line: which release it is, its settings, what an installable stands for.

Tested in cli/test_command.py, with odd programs in the place of Nix.
"""

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence

from hook.errors import FerryError
from hook.values.settings import Settings

TIMEOUT_S = 300
"""Evaluating an installable may take minutes, and no longer."""

SHOW_SETTINGS = (("config", "show"), ("show-config",))
"""From Nix 2.20, and before."""

FEATURES = ("--extra-experimental-features", "nix-command flakes")

MISTAKES = ("configuration line", "configuration setting", "included from", "invalid UTF-8 byte")
"""What Nix says of a configuration file that it cannot read, or not show; then no command of it tells anything."""

UNKNOWN = re.compile(r"^warning: unknown setting '([^'\n]+)'$", re.MULTILINE)

Options = Sequence[tuple[str, str]]
"""Names and values that Nix is given as `--option`."""


class NixError(FerryError):
    """Nix is missing, or said no."""


def version() -> str:
    """The release of the `nix` in PATH, like `2.28.3`."""
    words = _run("nix", ["--version"]).split()
    if not words:
        raise NixError("'nix --version' printed nothing")
    return words[-1]


def unknown_settings() -> list[str]:
    """The names in its configuration that Nix does not know, which it passes over with a warning."""
    return UNKNOWN.findall(_finished("nix", ["--version"], (), os.environ).stderr)


def settings(options: Options = (), environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of a Nix command with that environment, as a build hook gets them; a daemon may overrule some."""
    for command in SHOW_SETTINGS:
        try:
            return _parsed(_run("nix", [*FEATURES, *command, "--json"], options, environ))
        except NixError as error:
            refused = error
    raise refused


def _parsed(text: str) -> Settings:
    try:
        return Settings({name: _text(name, entry["value"]) for name, entry in json.loads(text).items()})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise NixError("'nix' printed something else than its settings when asked for them") from None


def is_trusted() -> bool | None:
    """Whether the daemon takes this user's word; None if this Nix does not say, which it does from 2.19 on."""
    try:
        return bool(json.loads(_run("nix", [*FEATURES, "store", "info", "--json"])).get("trusted"))
    except (NixError, ValueError, AttributeError):
        return None


def derivation_paths(installable: str, options: Options = ()) -> list[str]:
    """The derivations that `installable` stands for: a store path, a flake reference, or a file with Nix code."""
    if installable.endswith(".drv") and "/" in installable:
        return [os.path.realpath(installable)]
    if os.path.isfile(installable):
        found = _run("nix-instantiate", [installable], options).split()
        return sorted({path.partition("!")[0] for path in found})
    return _run("nix", [*FEATURES, "path-info", "--derivation", installable], options).split()


def _text(name: str, value: object) -> str:
    """A value in the form in which Nix sends it to its hooks."""
    if name == "external-builders":
        return json.dumps(value)
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case list():
            return " ".join(map(str, value))
        case dict():
            return " ".join(f"{name}={entry}" for name, entry in value.items())
    return str(value)


def _run(program: str, arguments: Sequence[str], options: Options = (), environ: Mapping[str, str] = os.environ) -> str:
    return _finished(program, arguments, options, environ).stdout


def _finished(
    program: str, arguments: Sequence[str], options: Options, environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    command = [program, *arguments, *(word for option in options for word in ("--option", *option))]
    try:
        return subprocess.run(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=TIMEOUT_S,
            check=True,
        )
    except FileNotFoundError:
        raise NixError(f"'{program}' is not in PATH: is Nix installed?") from None
    except OSError as error:
        raise NixError(f"cannot run '{program}': {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise NixError(f"'{' '.join(command)}' did not end within {TIMEOUT_S} s") from None
    except subprocess.CalledProcessError as error:
        raise NixError(f"'{' '.join(command)}' failed: {error.stderr.strip().removeprefix('error: ')}") from None
