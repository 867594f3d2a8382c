"""config and completions: what is in force is shown, and shells are told what there is."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hook.cli.configuring import SHELLS
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


def test_commands_are_completed() -> None:
    """As that script would ask."""
    asked = {"_NIX_FERRY_COMPLETE": "bash_complete", "COMP_WORDS": "nix-ferry doc", "COMP_CWORD": "1"}
    done = CliRunner().invoke(main, [], prog_name="nix-ferry", env=asked)
    assert done.stdout == "plain,doctor\n"


MACHINES = "ssh-ng://fast-box x86_64-linux ; ssh://slow-box"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("", ["fast-box", "slow-box"]),
        ("f", ["fast-box"]),
        ("ssh", ["ssh-ng://fast-box", "ssh://slow-box"]),
        ("ssh-", ["ssh-ng://fast-box"]),
    ],
)
def test_machines_are_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, offered: list[str]
) -> None:
    """By the host's name, which is what people type, or by the address."""
    nix = tmp_path / "nix"
    nix.write_text(f"#!/bin/sh\necho '{json.dumps({'builders': {'value': MACHINES}})}'\n")
    nix.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    asked = {"_NIX_FERRY_COMPLETE": "bash_complete", "COMP_WORDS": f"nix-ferry ping {typed}", "COMP_CWORD": "2"}
    done = CliRunner().invoke(main, [], prog_name="nix-ferry", env=asked)
    assert done.stdout.split() == [f"plain,{machine}" for machine in offered]


def test_without_nix_no_machine_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that completes is no place for an error."""
    monkeypatch.setenv("PATH", str(tmp_path))
    asked = {"_NIX_FERRY_COMPLETE": "bash_complete", "COMP_WORDS": "nix-ferry ping x", "COMP_CWORD": "2"}
    done = CliRunner().invoke(main, [], prog_name="nix-ferry", env=asked)
    assert (done.stdout.strip(), done.stderr, done.exit_code) == ("", "", 0)
