"""What is said of this host; tests/lab/test_doctor.py and test_advice_here.py break real ones."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from hook.cli.doctor.check import Level
from hook.cli.doctor.host import check_broker, check_files, check_machines, no_nix, unreachable_daemon
from hook.cli.nix import NixError
from hook.machines.schedule import Host
from hook.values.settings import Settings
from tests.standing import broker_socket

NOBODY = 65534


def host(max_jobs: int = 1) -> Host:
    return Host("x86_64-linux", frozenset(), frozenset(), max_jobs, (2, 34))


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state directory of Nix here."""
    monkeypatch.setenv("NIX_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path


def test_what_starts_a_broker_is_told(state: Path) -> None:
    """Nothing does where Nix runs no hook of ours."""
    assert check_broker(hook_is_ours=True).text == "none runs; the next build starts one"
    assert check_broker(hook_is_ours=False).text == "none runs; Nix does not run nix-ferry's hook, which starts one"


def test_a_broker_that_was_killed_is_no_harm(state: Path) -> None:
    (state / "nix-ferry").mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(broker_socket(state / "nix-ferry")))
    found = check_broker(hook_is_ours=True)
    assert (found.level, found.fix) == (Level.NOTE, "nothing to do: the next one replaces it")


def test_another_users_broker_is_for_that_user_to_look_at(state: Path) -> None:
    """Root, on a host where somebody builds without a daemon."""
    (state / "nix-ferry").mkdir(0o700)
    os.chown(state / "nix-ferry", NOBODY, NOBODY)
    found = check_broker(hook_is_ours=True)
    assert (found.level, found.fix) == (Level.NOTE, "run this as 'nobody'")


def test_where_there_is_no_place_for_a_broker_nobody_is_sent_away(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store below a user's home has no broker, and needs none."""
    monkeypatch.setenv("NIX_STATE_DIR", str(state / "nowhere"))
    found = check_broker(hook_is_ours=True)
    assert (found.level, found.fix.startswith("nothing to do: ")) == (Level.NOTE, True)


@pytest.mark.parametrize(
    ("builders", "said"),
    [
        ("", []),
        ("ssh://b1 - - 4 ; ssh://b2", []),
        ("@{here} # ours", []),
        ("@/etc/nix/machines", []),
        ("@{here} ; @{gone}", ["it names '{gone}', which is not there"]),
        ("@{here} @{gone}", ["'@{here} @{gone}' names one file with blanks in its name, which is not there"]),
        ("{here} ; /", ["'{here}' is taken for the directory of a store, but is a file"]),
        ("@{gone}\n@{gone}2", ["it names '{gone}', which is not there", "it names '{gone}2', which is not there"]),
    ],
)
def test_files_that_count_for_nothing_are_found(tmp_path: Path, builders: str, said: list[str]) -> None:
    """Nix passes over them in silence; the default file need not be there."""
    names = {"here": str(tmp_path / "here"), "gone": str(tmp_path / "gone")}
    (tmp_path / "here").touch()
    found = list(check_files(Settings({"builders": builders.format(**names)})))
    assert [check.text for check in found] == [text.format(**names) for text in said]
    assert all(check.fix for check in found)


def test_files_that_a_comma_separates_are_separated_by_the_advice(tmp_path: Path) -> None:
    (check,) = check_files(Settings({"builders": f"@{tmp_path}/a, @{tmp_path}/b"}))
    assert check.fix == f"put a ';' between them: '@{tmp_path}/a ; @{tmp_path}/b'"


@pytest.mark.parametrize(
    "said",
    [
        'error: file "/etc/nix/none" included from "/etc/nix/nix.conf" not found',
        "error: [json.exception.type_error.316] invalid UTF-8 byte at index 9: 0xFF",
    ],
)
def test_where_nix_is_there_and_its_configuration_is_wrong_nobody_is_to_install_it(said: str) -> None:
    """It says which file it misses, or that it cannot show what is in one."""
    assert no_nix(NixError(f"'nix show-config --json' failed: {said}")).fix.startswith("correct that in the file")


def test_without_machines_the_way_to_one_is_told() -> None:
    found = check_machines([], host(), Settings({"builders": "@/etc/nix/machines"}))
    assert (found.level, "nix-ferry machine add USER@HOST" in found.fix) == (Level.WRONG, True)


def environ_of(directory: Path) -> Mapping[str, str]:
    return {"NIX_DAEMON_SOCKET_PATH": str(directory / "socket")}


def test_a_daemon_that_is_not_there_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one that is there and closed; root may use any."""
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    assert unreachable_daemon(environ_of(tmp_path / "nowhere")) is None
    assert unreachable_daemon(environ_of(tmp_path)) is None
    (tmp_path / "socket").touch()
    assert unreachable_daemon(environ_of(tmp_path)) is None
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.X_OK)
    found = unreachable_daemon(environ_of(tmp_path))
    assert found is not None
    assert found.text == f"'nobody' may not use it: '{tmp_path}/socket' is for group 'root' only"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert unreachable_daemon(environ_of(tmp_path)) is None
