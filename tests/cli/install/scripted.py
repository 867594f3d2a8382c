"""A host whose Nix and systemd are scripts, and the command on it."""

import os
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from hook.cli.main import main
from tests.fakes import nix as fake_nix

PROGRAM = Path(sys.executable).with_name("nix-ferry")
OWN = PROGRAM.resolve().with_name("nix-ferry-hook")


class Place:
    """A host of directories and scripts of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = {
            "HOME": str(directory / "home"),
            "NIX_CONF_DIR": str(directory / "etc"),
            "NIX_STATE_DIR": str(directory / "state"),
            "PATH": f"{directory}/bin:{os.environ['PATH']}",
            "RELEASE": "2.34.8",
        }
        self.hook = directory / "libexec/nix-ferry/nix-ferry-hook"
        self.line = f"build-hook = {self.hook}\n"
        self.drop_in = directory / "systemd" / "nix-ferry.conf"
        self.service = directory / "systemd" / "nix-ferry-broker.service"
        self.calls = directory / "calls"
        for name in ("bin", "etc", "state"):
            (directory / name).mkdir()
        self.script("nix", f'exec {sys.executable} -S {fake_nix.__file__} "$@"')

    def script(self, name: str, text: str) -> None:
        path = self.directory / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def conf(self, text: str) -> Path:
        path = self.directory / "etc" / "nix.conf"
        path.write_text(text)
        return path

    def with_daemon(self) -> None:
        (self.directory / "state" / "daemon-socket").mkdir()
        (self.directory / "state" / "daemon-socket" / "socket").touch()

    def with_systemd(self, unit_environment: str = "") -> None:
        """One that only writes down what it is asked to do."""
        (self.directory / "run").mkdir()
        answer = f"case $1 in show) echo '{unit_environment}';; esac"
        self.script("systemctl", f'echo "$*" >> {self.calls}; {answer}')

    def asked(self) -> list[str]:
        """What systemctl was told to do, but for questions."""
        calls = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [call for call in calls if not call.startswith("show")]


def ferry(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)
