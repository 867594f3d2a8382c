"""Which file has the line, by who builds on this host and which Nix that is; and where the hook lies.

With a scripted Nix; tests/lab/test_install.py has real ones.
"""

import os
import shutil
import sys
from pathlib import Path

import pytest

from hook.cli.install import where as place
from hook.cli.install.confline import CREATED
from tests.cli.install.scripted import OWN, PROGRAM, Place, ferry

changeable = place.changeable


@pytest.mark.parametrize("what", ["program", "package"])
def test_root_is_not_made_to_run_what_others_can_change(
    host: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A virtual environment of a user, which that user could change at any time."""
    theirs = tmp_path / "venv"
    theirs.mkdir()
    os.chown(theirs, 1000, 1000)
    monkeypatch.setattr(place, "changeable", changeable)
    if what == "program":
        for program in (PROGRAM, OWN):
            shutil.copy(program, theirs)
        monkeypatch.setattr(sys, "argv", [str(theirs / "nix-ferry")])
    else:
        monkeypatch.setattr(place, "__file__", str(theirs / "hook/cli/install/where.py"))
    for option in ("--yes", "--dry-run"):
        done = ferry("install", option)
        assert (done.exit_code, f"others than root can change '{theirs}" in done.output) == (1, True)
    assert not (tmp_path / "etc/nix.conf").exists()
    assert not host.hook.exists()


def test_who_is_not_root_has_the_hook_at_home(host: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single user may not write elsewhere."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert place.hook_path() == f"{host.directory}/home/.local/libexec/nix-ferry/nix-ferry-hook"


def test_a_hook_of_nixs_store_stays_there(host: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile replaces it, and a collection cannot take its libraries away."""
    hook = "/nix/store/00000000000000000000000000000000-nix-ferry/bin/nix-ferry-hook"
    monkeypatch.setattr(place, "own_hook", lambda: hook)
    assert place.hook_path() == hook


def test_a_link_is_followed(host: Place) -> None:
    """It stays one: a configuration kept elsewhere is changed there."""
    kept = host.directory / "kept.conf"
    kept.write_text("cores = 2\n")
    (host.directory / "etc" / "nix.conf").symlink_to(kept)
    assert ferry("install", "--yes").exit_code == 0
    assert (host.directory / "etc" / "nix.conf").is_symlink()
    assert kept.read_text().endswith(host.line)


def test_what_a_configuration_of_nixos_makes_is_left_to_it(host: Place) -> None:
    """Its nix.conf is a link into the store."""
    (host.directory / "etc" / "nix.conf").symlink_to("/nix/store/00000000000000000000000000000000-nix.conf")
    done = ferry("install", "--yes")
    assert done.exit_code == 1
    assert "services.nix-ferry.enable" in done.output
    assert len(done.output.splitlines()) == 1


def test_what_another_program_writes_is_left_to_it(host: Place) -> None:
    """Determinate Nix makes nix.conf anew, and includes a file for its user."""
    conf = host.conf("cores = 2\n!include nix.custom.conf\n")
    assert ferry("install", "--yes").exit_code == 0
    assert conf.read_text() == "cores = 2\n!include nix.custom.conf\n"
    custom = host.directory / "etc" / "nix.custom.conf"
    assert custom.read_text() == f"{CREATED}\n{host.line}"
    assert ferry("uninstall", "--yes").exit_code == 0
    assert not custom.exists()


def test_a_line_that_does_not_count_is_said_to(host: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own file, read after the system's, has another one."""
    user = host.directory / "home/.config/nix/nix.conf"
    user.parent.mkdir(parents=True)
    user.write_text("build-hook = /another\n")
    done = ferry("install", "--yes")
    assert done.exit_code == 1
    assert "warning: Nix still takes '/another' as build-hook" in done.output


def test_without_a_daemon_a_nix_that_ignores_nix_conf_has_it_from_the_users(
    host: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nix 2.25 to 2.33."""
    monkeypatch.setenv("RELEASE", "2.26.3")
    conf = host.conf("cores = 2\n")
    assert ferry("install", "--yes").exit_code == 0
    assert conf.read_text() == "cores = 2\n"
    user = host.directory / "home/.config/nix/nix.conf"
    assert user.read_text() == f"{CREATED}\n{host.line}"
    assert ferry("uninstall", "--yes").exit_code == 0
    assert not user.parent.exists()


def test_a_daemon_that_ignores_nix_conf_has_it_from_its_unit(host: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is restarted only if that was asked for."""
    monkeypatch.setenv("RELEASE", "2.33.9")
    host.with_daemon()
    host.with_systemd()
    done = ferry("install", "--yes")
    assert done.exit_code == 0
    assert host.drop_in.read_text() == f'{CREATED}\n[Service]\nEnvironment="NIX_CONFIG={host.line.strip()}"\n'
    assert "systemctl daemon-reload && systemctl restart nix-daemon.service" in done.output
    assert f"root's own commands do without the daemon: for them, put '{host.line.strip()}' into " in done.output
    assert host.asked() == []
    assert "nothing to change" in ferry("install", "--yes", "--restart").output
    assert ferry("uninstall", "--yes", "--restart").exit_code == 0
    assert host.asked() == ["daemon-reload", "restart nix-daemon.service"]
    assert not host.drop_in.parent.exists()


def test_a_unit_with_settings_of_its_own_keeps_them(host: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two values of NIX_CONFIG cannot be added."""
    monkeypatch.setenv("RELEASE", "2.26.3")
    host.with_daemon()
    host.with_systemd('NIX_REMOTE=x "NIX_CONFIG=cores = 2"')
    done = ferry("install", "--yes")
    assert (done.exit_code, host.drop_in.exists()) == (1, False)
    assert done.output == f"error: nix-daemon.service sets NIX_CONFIG already: add '{host.line.strip()}' to it\n"
