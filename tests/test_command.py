"""Whatever becomes of its output or its configuration, the command ends with a line at most, never a stack trace."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from hook.cli.main import main
from man.make import commands

PROGRAM = Path(sys.executable).with_name("nix-ferry")
ARGUMENTS = {
    "broker": ["--help"],
    "completions": ["bash"],
    "explain": ["/nix/store/none.drv"],
    "install": ["--dry-run"],
    "uninstall": ["--dry-run"],
}
"""What a command cannot do without, or should not in a test."""

COMMANDS = [context.command_path.split()[1:] for context in commands(click.Context(main, info_name="nix-ferry"))]


def run(words: Sequence[str], redirection: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """The command, without a Nix and with output that goes to where `redirection` says."""
    environ = {"HOME": str(directory), "NIX_STATE_DIR": str(directory), "NIX_CONF_DIR": str(directory)}
    environ["PATH"] = str(directory)
    command = [str(PROGRAM), *words, *ARGUMENTS.get(words[0], [])]
    script = f'"$@" {redirection}'
    return subprocess.run(
        ["/bin/sh", "-c", script, "sh", *command], env=environ, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", "2>&- >&- <&-"])
@pytest.mark.parametrize("words", [["config"], ["--help"], ["completions"], ["doctor"]], ids=" ".join)
def test_output_that_goes_nowhere_is_no_stack_trace(words: Sequence[str], redirection: str, tmp_path: Path) -> None:
    done = run(words, redirection, tmp_path)
    assert done.returncode in (0, 1)
    assert done.stderr in ("", "error: [Errno 28] No space left on device\n")
    assert (done.returncode, bool(done.stderr)) == (1, True) or redirection != ">/dev/full"


def test_a_reader_that_has_gone_is_no_error_to_speak_of(tmp_path: Path) -> None:
    """As with `head`."""
    ours, theirs = os.pipe()
    os.close(ours)
    environ = {"NIX_CONF_DIR": str(tmp_path)}
    done = subprocess.run(
        [PROGRAM, "config"], stdout=theirs, stderr=subprocess.PIPE, env=environ, text=True, check=False
    )
    os.close(theirs)
    assert done.stderr == ""


def test_a_nix_that_cannot_be_run_is_one_line(tmp_path: Path) -> None:
    """A directory of that name, say."""
    (tmp_path / "nix").mkdir()
    done = run(["ping"], "", tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: cannot run 'nix': Permission denied\n")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_without_a_nix_each_command_ends_with_a_line(words: Sequence[str], tmp_path: Path) -> None:
    """Whether it needs one, or an argument, or neither."""
    done = run(words, "", tmp_path)
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode in (0, 1, 2)
    assert done.stdout or done.stderr
    assert done.returncode == 2 or len(done.stderr.splitlines()) <= 1


def test_an_error_that_others_have_worded_moves_no_cursor(tmp_path: Path) -> None:
    """Most are what a machine said, and may be meant for the terminal."""
    (tmp_path / "nix").write_text("#!/bin/sh\nprintf 'error: \\033[2Jall is well' >&2; exit 1\n")
    (tmp_path / "nix").chmod(0o755)
    done = run(["ping"], "", tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("\\x1b[2Jall is well\n")
    assert "\x1b" not in done.stderr
