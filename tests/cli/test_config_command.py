"""config and completions: what is in force is shown, and shells are told what there is."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hook.cli.complete import VARIABLE
from hook.cli.config import SHELLS
from hook.cli.main import main


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NIX_CONF_DIR", str(tmp_path))
    return tmp_path / "ferry.toml"


def ferry(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, arguments, env=environ, catch_exceptions=False)


def test_each_key_is_shown_with_where_it_is_from(conf: Path) -> None:
    """For people and for programs; a key without a value says what holds instead."""
    conf.write_text("broker = false\n")
    shown = [line.split(maxsplit=2) for line in ferry("config").stdout.splitlines()]
    assert shown[0] == ["KEY", "VALUE", "FROM"]
    assert shown[1] == ["broker", "false", str(conf)]
    assert ["look-ahead", "as", "many as the machine's jobs  default"] in shown
    told = json.loads(ferry("config", "--json").stdout)
    assert told["broker"] == {"value": False, "from": str(conf)}
    assert told["look-ahead"] == {"value": None, "from": "default"}
    assert told["connect-timeout"] == {"value": 5, "from": "default"}


def test_a_file_with_a_mistake_is_an_error(conf: Path) -> None:
    """One line, with file, line, key and the nearest one."""
    conf.write_text("\nbrokre = false\n")
    done = ferry("config")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"error: '{conf}' is ignored: line 2: unknown key 'brokre'; did you mean 'broker'?\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_gets_a_script_that_asks_us(shell: str) -> None:
    """By the name that click reads."""
    assert f"_NIX_FERRY_COMPLETE={shell}_complete" in ferry("completions", shell).stdout


MACHINES = "ssh-ng://fast-box x86_64-linux ; ssh://slow-box"


def offered(*words: str) -> list[str]:
    """What is offered for the last of `words`, as click tells it to bash."""
    asked = {VARIABLE: "bash_complete", "COMP_WORDS": " ".join(["nix-ferry", *words]), "COMP_CWORD": str(len(words))}
    done = CliRunner().invoke(main, [], prog_name="nix-ferry", env=asked)
    assert (done.stderr, done.exit_code) == ("", 0)
    return done.stdout.split()


def test_commands_are_completed() -> None:
    assert offered("doc") == ["plain,doctor"]


@pytest.fixture
def nix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Nix that knows its settings."""
    settings = {"builders": {"value": MACHINES}, "cores": {"value": 0}, "connect-timeout": {"value": 0}}
    nix = tmp_path / "nix"
    nix.write_text(f"#!/bin/sh\necho '{json.dumps(settings)}'\n")
    nix.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize(
    ("typed", "machines"),
    [
        ("", ["fast-box", "slow-box"]),
        ("f", ["fast-box"]),
        ("ssh", ["ssh-ng://fast-box", "ssh://slow-box"]),
        ("ssh-", ["ssh-ng://fast-box"]),
        ("//s", ["//slow-box"]),
    ],
)
@pytest.mark.usefixtures("nix")
def test_machines_are_completed(typed: str, machines: list[str]) -> None:
    """By the host's name, which people type, or by the address; of that, bash passes on what follows a colon."""
    assert offered("ping", typed) == [f"plain,{machine}" for machine in machines]
    assert offered("history", "--machine", typed) == [f"plain,{machine}" for machine in machines]


@pytest.mark.usefixtures("nix")
def test_settings_are_completed() -> None:
    """After each --option the name; not the value, of which nothing is known."""
    assert offered("doctor", "--option", "co") == ["plain,connect-timeout", "plain,cores"]
    assert offered("doctor", "--option", "cores", "co") == []
    assert offered("doctor", "--option", "cores", "1", "--option", "cor") == ["plain,cores"]


def test_files_are_for_the_shell_to_complete() -> None:
    assert offered("explain", "./x") == ["file,./x"]


def test_without_nix_nothing_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that completes is no place for an error."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert offered("ping", "x") == []
    assert offered("ping", "--option", "x") == []
