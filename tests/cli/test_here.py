"""This host as a command finds it: each part once, and only what a command needs."""

import os
from pathlib import Path

import click
import pytest

from hook.cli import nix
from hook.cli.here import Here
from hook.errors import FerryError
from hook.values.settings import Settings

BUILDERS = "ssh-ng://fast-box x86_64-linux - 2 ; ssh://build@fast-box:2222 x86_64-linux ; ssh-ng://slow ; nonsense://"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A Nix that has `BUILDERS`; what it was asked."""
    asked: list[object] = []

    def settings(options: nix.Options, environ: object) -> Settings:
        asked.append(options)
        return Settings({"builders": BUILDERS, "system": "x86_64-linux"})

    monkeypatch.setattr(nix, "settings", settings)
    return asked


def test_nix_is_asked_once_and_not_before_somebody_wants_to_know(asked: list[object], tmp_path: Path) -> None:
    """It takes a good part of a second, and a command must see one state of things."""
    here = Here([("max-jobs", "0")], {"NIX_STATE_DIR": str(tmp_path)})
    assert here.slots.busy("nobody", 1) == 0
    assert asked == []
    assert len(here.machines) == len(here.machines) == 4
    assert here.settings is here.settings
    assert asked == [[("max-jobs", "0")]]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("fast-box", ["ssh-ng://fast-box", "ssh://build@fast-box:2222"]),
        ("ssh-ng://fast-box", ["ssh-ng://fast-box"]),
        ("ssh://build@fast-box:2222", ["ssh://build@fast-box:2222"]),
        ("slow", ["ssh-ng://slow"]),
    ],
)
@pytest.mark.usefixtures("asked")
def test_a_machine_is_named_by_its_host_or_its_address(name: str, found: list[str]) -> None:
    """A host stands for all its lines."""
    assert [machine.uri.text for machine in Here().named(name)] == found


@pytest.mark.usefixtures("asked")
def test_a_name_that_is_nobodys_is_answered_with_the_names_there_are() -> None:
    """A part of a name is none: `disable` is not for all machines that happen to have it."""
    with pytest.raises(FerryError, match="called 'fast'; there are: 'ssh-ng://fast-box', 'ssh://build@fast-box:2222'"):
        Here().named("fast")


@pytest.mark.usefixtures("asked")
def test_machines_are_chosen_by_parts_of_their_addresses() -> None:
    """Of several words one is enough; without any, all are meant."""
    here = Here()
    assert [machine.uri.host for machine in here.like(["low", "2222"])] == ["fast-box", "slow"]
    assert here.like([]) == here.machines
    with pytest.raises(FerryError, match="no machine of 'builders' matches"):
        here.like(["other"])


def test_without_machines_there_is_nothing_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user is told where to add one, not that a name is wrong."""
    monkeypatch.setattr(nix, "settings", lambda *_: Settings({"builders": ""}))
    with pytest.raises(FerryError, match="no machine is configured in 'builders'"):
        Here().like(["fast"])


@pytest.mark.usefixtures("asked")
def test_files_lie_where_hooks_look_for_them(tmp_path: Path) -> None:
    """What is disabled by a command must be seen by the hook of the same store."""
    here = Here((), {"NIX_STATE_DIR": str(tmp_path)})
    assert here.private_dir == str(tmp_path / "nix-ferry")
    assert (tmp_path / "nix-ferry").stat().st_mode & 0o777 == 0o700
    machine = here.machines[0]
    here.disabled.add(machine)
    assert list((tmp_path / "nix-ferry/disabled").iterdir())
    assert Here().state_dir == (os.environ.get("NIX_STATE_DIR") or "/nix/var/nix")


def test_who_may_not_write_there_has_a_directory_for_the_moment(tmp_path: Path) -> None:
    """Known hosts of a connection must be somewhere; nothing of them stays."""
    with click.Context(click.Command("ping")):
        made = Here((), {"NIX_STATE_DIR": str(tmp_path / "missing")}).private_dir
        assert os.path.isdir(made)
    assert not os.path.exists(made)


def test_a_mistake_in_ferry_toml_is_a_complaint(tmp_path: Path) -> None:
    """And the defaults hold, as for the hook."""
    (tmp_path / "ferry.toml").write_text("broker = maybe")
    here = Here((), {"NIX_CONF_DIR": str(tmp_path)})
    assert here.config.broker
    assert "ferry.toml' is ignored" in here.complaints[0]
    assert Here((), {"NIX_CONF_DIR": str(tmp_path / "missing")}).complaints == []
