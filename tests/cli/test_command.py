"""Whatever becomes of its output or its configuration, the command ends with a line at most, never a stack trace."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from hook.cli import config as configuring
from hook.cli.doctor.check import Check, Level
from hook.cli.main import EPILOG, main
from man.make import commands
from tests.lab.container import wait_until

PROGRAM = Path(sys.executable).with_name("nix-ferry")
CLEAR = "\x1b[2J"
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
    assert done.stderr in ("", "error: No space left on device\n")
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


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_exit_status_tells_a_wrong_command_line_from_what_cannot_be_done(
    words: Sequence[str], tmp_path: Path
) -> None:
    """2 and 1, as the help and the manual page have it; asking for help is neither."""
    assert "2  the command line makes no sense" in EPILOG
    for argument, status in (("--no-such-option", 2), ("--help", 0)):
        command = [PROGRAM, *words, argument]
        done = subprocess.run(command, env={"HOME": str(tmp_path)}, capture_output=True, text=True, check=False)
        assert done.returncode == status


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["config"], 0),
        (["status"], 0),
        (["metrics"], 0),
        (["broker", "stop"], 0),
        (["completions", "bash"], 0),
        (["doctor"], 1),
        (["ping"], 1),
        (["explain", "/nix/store/none.drv"], 1),
        (["machine", "list"], 1),
        (["machine", "disable", "box"], 1),
        (["explain"], 2),
        (["machine", "add"], 2),
    ],
)
def test_the_exit_status_without_a_nix(words: Sequence[str], status: int, tmp_path: Path) -> None:
    """What needs none is fine; a broker that does not run is no error."""
    environ = {"HOME": str(tmp_path), "NIX_STATE_DIR": str(tmp_path), "NIX_CONF_DIR": str(tmp_path), "PATH": ""}
    done = subprocess.run([PROGRAM, *words], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == status


def test_an_error_that_others_have_worded_moves_no_cursor(tmp_path: Path) -> None:
    """Most are what a machine said, and may be meant for the terminal."""
    (tmp_path / "nix").write_text("#!/bin/sh\nprintf 'error: \\033[2Jall is well' >&2; exit 1\n")
    (tmp_path / "nix").chmod(0o755)
    done = run(["ping"], "", tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("\\x1b[2Jall is well\n")
    assert "\x1b" not in done.stderr


def test_a_check_of_doctor_moves_no_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of machines, users and processes are for others to choose."""
    check = Check(f"{CLEAR}box", Level.WRONG, f"{CLEAR}refused", f"try {CLEAR}", "tcp")
    monkeypatch.setattr("hook.cli.doctor.doctor.examine", lambda here: iter([check]))
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 1
    assert "\x1b" not in done.output
    assert done.output.count("\\x1b[2J") == 3


NOISE = bytes(range(256)) * 20
SETTINGS = {"builders": "ssh-ng://b1.invalid x86_64-linux", "system": "x86_64-linux"}


def a_nix(directory: Path, script: bytes) -> None:
    """One that does what `script` says, whatever it is asked."""
    for name in ("nix", "nix-instantiate"):
        (directory / name).write_bytes(b"#!/bin/sh\n" + script)
        (directory / name).chmod(0o755)


def a_nix_with(directory: Path, **settings: object) -> None:
    """One with these settings."""
    told = {name.replace("_", "-"): {"value": value} for name, value in (SETTINGS | settings).items()}
    (directory / "settings").write_text(json.dumps(told))
    a_nix(directory, b'case "$*" in *--version*) echo "nix 2.34.8";; *) cat "$HOME/settings";; esac')


def no_state(directory: Path) -> None:
    shutil.rmtree(directory / "state")


def files_for_directories(directory: Path) -> None:
    no_state(directory)
    (directory / "state").touch()


def directories_for_files(directory: Path) -> None:
    (directory / "ferry.toml").mkdir()
    for name in ("builds.jsonl", "decisions.jsonl", "broker.log", "broker.sock", "disabled"):
        (directory / "state/nix-ferry" / name).mkdir()
    a_nix_with(directory, builders=f"@{directory}")


def noise_in_files(directory: Path) -> None:
    (directory / "ferry.toml").write_bytes(NOISE)
    (directory / "machines").write_bytes(NOISE)
    entries = b'5\n{}\n[]\nnull\n{"derivation":5}\n' + b"[" * 100_000 + b"\n" + NOISE
    for name in ("builds.jsonl", "decisions.jsonl", "broker.log", "broker.sock"):
        (directory / "state/nix-ferry" / name).write_bytes(entries)
    a_nix_with(directory, builders=f"@{directory}/machines")


def a_nix_that_makes_noise(directory: Path) -> None:
    (directory / "noise").write_bytes(NOISE)
    a_nix(directory, b'cat "$HOME/noise"; cat "$HOME/noise" >&2; [ "$1" = --version ]')


def a_nix_that_says_nothing(directory: Path) -> None:
    a_nix(directory, b"exit 0")


def a_nix_that_speaks_of_something_else(directory: Path) -> None:
    a_nix(directory, b"""echo '{"builders": 5}'""")


def a_nix_that_is_killed(directory: Path) -> None:
    a_nix(directory, b"kill -9 $$")


def settings_of_another_kind(directory: Path) -> None:
    a_nix_with(directory, builders=5, system=None, max_jobs="x", timeout="-1", store={"a": 1}, substitute="perhaps")


def very_many_machines(directory: Path) -> None:
    a_nix_with(directory, builders="\n".join(f"unix:///nowhere/{number} x86_64-linux" for number in range(2000)))


def very_many_jobs(directory: Path) -> None:
    a_nix_with(directory, builders="unix:///nowhere x86_64-linux - 4294967295")


def fifos_for_files(directory: Path) -> None:
    os.mkfifo(directory / "ferry.toml")
    os.mkfifo(directory / "machines")
    a_nix_with(directory, builders=f"@{directory}/machines ; @/dev/zero")


SURROUNDINGS = (
    no_state,
    files_for_directories,
    directories_for_files,
    noise_in_files,
    a_nix_that_makes_noise,
    a_nix_that_says_nothing,
    a_nix_that_speaks_of_something_else,
    a_nix_that_is_killed,
    settings_of_another_kind,
    very_many_machines,
    very_many_jobs,
    fifos_for_files,
)
ODD_WORDS = {
    "broker": [["--help"]],
    "completions": [["bash"], ["sh"]],
    "explain": [["/nix/store/none.drv"], ["./\udcff\u2192"], ["--recent", "\udcff"]],
    "history": [["--machine", "\udcff"], ["--summary"], ["--json"], ["-n", "99999999999999999999"]],
    "install": [["--dry-run"]],
    "log": [["-n", "0"]],
    "machine": [["\udcff"], ["--option", "max-jobs", "\udcff", "b1.invalid"], []],
    "ping": [["\udcff"]],
    "status": [["--json"]],
    "uninstall": [["--dry-run"]],
}


@pytest.mark.parametrize("surroundings", SURROUNDINGS, ids=lambda surroundings: surroundings.__name__)
def test_nothing_around_it_makes_a_command_fall_over(surroundings: Callable[[Path], None], tmp_path: Path) -> None:
    """Every command with words that mean nothing: it ends, with a status that is documented, and says something."""
    (tmp_path / "state/nix-ferry").mkdir(parents=True)
    (tmp_path / "state/nix-ferry").chmod(0o700)
    a_nix_with(tmp_path)
    surroundings(tmp_path)
    environ = {
        "HOME": str(tmp_path),
        "NIX_STATE_DIR": str(tmp_path / "state"),
        "NIX_CONF_DIR": str(tmp_path),
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "COLUMNS": "20",
        "NO_COLOR": "1",
        "LC_ALL": "POSIX",
    }
    for command in COMMANDS:
        for words in ODD_WORDS.get(command[0], [[]]):
            done = CliRunner(charset="ascii").invoke(main, [*command, *words], env=environ)
            assert done.exception is None or isinstance(done.exception, SystemExit), (command, words)
            assert done.exit_code in (0, 1, 2), (command, words)
            assert "made a mistake" not in done.output, (command, words)
            assert done.output or command in (["log"], ["uninstall"]), (command, words)


@pytest.mark.parametrize("words", [["doctor"], ["machine", "list"], ["status"], ["metrics"]], ids=" ".join)
def test_who_only_looks_makes_no_lock(words: list[str], tmp_path: Path) -> None:
    """Nor their directory, which a hook makes when it is first needed."""
    (tmp_path / "state").mkdir()
    very_many_jobs(tmp_path)
    environ = {"HOME": str(tmp_path), "NIX_STATE_DIR": str(tmp_path / "state"), "NIX_CONF_DIR": str(tmp_path)}
    done = CliRunner().invoke(main, words, env=environ | {"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert done.exit_code in (0, 1), done.output
    assert not (tmp_path / "state/current-load").exists()


def test_a_mistake_of_our_own_is_a_line_that_can_be_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its place; whoever wants to see more can."""
    monkeypatch.setattr(configuring, "KEYS", None)
    done = CliRunner().invoke(main, ["config"])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: nix-ferry itself made a mistake, please report it: TypeError in cli/config")
    assert len(done.stderr.splitlines()) == 1
    monkeypatch.setenv("NIX_FERRY_TRACE", "1")
    assert isinstance(CliRunner().invoke(main, ["config"]).exception, TypeError)


def test_a_terminal_that_lacks_a_character_gets_another(tmp_path: Path) -> None:
    """An arrow, in Latin 1."""
    a_nix_with(tmp_path)
    environ = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/bin:/usr/bin", "PYTHONIOENCODING": "latin-1:strict"}
    done = subprocess.run(
        [PROGRAM, "doctor"], env=environ | {"NIX_CONF_DIR": str(tmp_path)}, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"\\u2192" in done.stdout
    assert done.stderr == b""


def test_ctrl_c_is_a_word(tmp_path: Path) -> None:
    """While a machine does not answer; nobody waits for that any more."""
    a_nix_with(tmp_path)
    (tmp_path / "ssh").write_text('#!/bin/sh\n[ "$1" = -V ] && exit\n: > "$HOME/begun"\nexec sleep 100\n')
    (tmp_path / "ssh").chmod(0o755)
    environ = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:/bin:/usr/bin", "NIX_STATE_DIR": str(tmp_path)}
    with subprocess.Popen(
        [PROGRAM, "ping"], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as ping:
        wait_until((tmp_path / "begun").exists, "ssh")
        os.killpg(ping.pid, signal.SIGINT)
        shown, said = ping.communicate(timeout=30)
    assert (ping.returncode, shown, said.split()) == (1, "", ["Aborted!"])


def test_ctrl_c_while_it_is_loaded_ends_it_like_any_program(tmp_path: Path) -> None:
    """Users are quicker than imports."""
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [PROGRAM, "config"], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
