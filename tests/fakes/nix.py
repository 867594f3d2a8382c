"""An executable `nix` that tells its release, where `build-hook` is set, by the rules of that release, and its options.

RELEASE in its environment is what it claims to be.  Run with the arguments that hook/cli/nix.py gives.
"""

import json
import os
import sys
from pathlib import Path

DEFAULT = "/usr/bin/nix __build-remote"


def lines(path: Path) -> list[str]:
    """The lines of a file in the format of nix.conf, with those that it includes."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        match line.split():
            case ["include" | "!include", name]:
                found += lines(path.parent / name)
            case _:
                found.append(line)
    return found


def build_hook() -> str:
    """The last word on it."""
    environ = os.environ
    system = lines(Path(environ["NIX_CONF_DIR"], "nix.conf"))
    if (2, 25) <= tuple(map(int, environ["RELEASE"].split(".")[:2])) < (2, 34):
        system = []
    user = lines(Path(environ["HOME"], ".config/nix/nix.conf"))
    for line in reversed([*system, *user, *environ.get("NIX_CONFIG", "").splitlines()]):
        if line.startswith("build-hook = "):
            return line.removeprefix("build-hook = ")
    return DEFAULT


def options(argv: list[str]) -> dict[str, str]:
    """The settings that its command line gives."""
    return {argv[at + 1]: argv[at + 2] for at, word in enumerate(argv) if word == "--option"}


def main() -> None:
    if "--version" in sys.argv:
        print(f"nix (Nix) {os.environ['RELEASE']}")
    else:
        settings = {"build-hook": build_hook(), "store": "auto", "system": "x86_64-linux", **options(sys.argv)}
        print(json.dumps({name: {"value": value} for name, value in settings.items()}))


if __name__ == "__main__":
    main()
