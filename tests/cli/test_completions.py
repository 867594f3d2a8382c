"""The completions that are installed, in the shells that read them."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from man.make import COMPLETIONS, SCRIPTS

SETTINGS = {"builders": {"value": "ssh-ng://fast-box x86_64-linux"}, "cores": {"value": 0}}

SHELLS = {
    "bash": (["bash", "--norc", "-i"], ". {scripts}/nix-ferry; bind 'set enable-bracketed-paste off'"),
    "fish": (["fish", "--no-config"], ". {scripts}/nix-ferry.fish"),
    "zsh": (["zsh", "-f", "-i"], "fpath+=({scripts}); autoload -U compinit && compinit -u -D"),
}
"""How each is started, and what it is told then."""


@contextmanager
def shell(name: str, directory: Path) -> Iterator["pexpect.spawn[str]"]:
    """An interactive shell in `directory` that completes nix-ferry, and finds a Nix there."""
    nix = directory / "nix"
    nix.write_text(f"#!/bin/sh\necho '{json.dumps(SETTINGS)}'\n")
    nix.chmod(0o755)
    argv, setup = SHELLS[name]
    environ = {
        "HOME": str(directory),
        "PATH": f"{directory}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TERM": "dumb",
        "LC_ALL": "C.UTF-8",
    }
    child = pexpect.spawn(
        argv[0], argv[1:], env=environ, cwd=str(directory), encoding="utf-8", timeout=60, dimensions=(40, 200)
    )
    try:
        child.sendline(setup.format(scripts=COMPLETIONS) + "; echo re''ady")
        child.expect(r"ready\r\n")
        yield child
    finally:
        child.close(force=True)


LINES = [
    ("nix-ferry doc", "nix-ferry doctor"),
    ("nix-ferry machine disable f", "nix-ferry machine disable fast-box"),
    ("nix-ferry ping ssh-ng://f", "nix-ferry ping ssh-ng://fast-box"),
    ("nix-ferry doctor --option co", "nix-ferry doctor --option cores"),
    ("nix-ferry explain ./hel", "nix-ferry explain ./hello.drv"),
]
"""A command, a machine by its host and by its address, a setting, and a file."""

FORGET_LINE = "\x15"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_shell_completes(name: str, tmp_path: Path) -> None:
    """Pressing the key once adds what was missing."""
    (tmp_path / "hello.drv").touch()
    with shell(name, tmp_path) as child:
        for typed, completed in LINES:
            child.send(f"{typed}\t")
            child.expect_exact(completed.removeprefix(typed))
            child.send(FORGET_LINE)
