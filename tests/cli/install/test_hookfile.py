"""The hook outside of what is installed: what lies there, how it is replaced, and when it goes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hook.cli.install.hookfile import lacking
from tests.cli.install.scripted import OWN, Place, ferry


def test_the_hook_lies_outside_of_what_is_installed(host: Place) -> None:
    """With a link to its programs; both are on the screen before they are made, and are gone at last."""
    done = ferry("install", "--yes")
    assert done.exit_code == 0
    assert host.hook.read_bytes() == OWN.read_bytes()
    assert host.hook.stat().st_mode & 0o7777 == 0o755
    assert os.readlink(host.hook.parent / "programs") == str(OWN.parent)
    assert f"+++ {host.hook}\n@@ -0,0 +1 @@\n+a copy of '{OWN}'\n" in done.output
    assert f"+++ {host.hook.parent}/programs\n@@ -0,0 +1 @@\n+a link to '{OWN.parent}'\n" in done.output
    assert sorted(path.name for path in host.hook.parent.iterdir()) == ["nix-ferry-hook", "programs"]
    assert ferry("uninstall", "--yes").exit_code == 0
    assert not host.hook.parent.exists()


def test_an_upgrade_replaces_the_hook_at_once(host: Place) -> None:
    """Also while Nix runs it; nothing else changes, so nobody has to restart anything."""
    host.with_daemon()
    host.with_systemd()
    assert ferry("install", "--yes").exit_code == 0
    conf = (host.directory / "etc/nix.conf").read_text()
    shutil.copy2("/bin/sleep", host.hook)
    (host.hook.parent / "programs").unlink()
    (host.hook.parent / "programs").symlink_to("/opt/elsewhere")
    with subprocess.Popen([host.hook, "60"]) as running:
        done = ferry("install", "--yes")
        running.kill()
    assert done.exit_code == 0
    assert "-a link to '/opt/elsewhere'" in done.output
    assert host.hook.read_bytes() == OWN.read_bytes()
    assert os.readlink(host.hook.parent / "programs") == str(OWN.parent)
    assert (host.directory / "etc/nix.conf").read_text() == conf
    assert "restart" not in done.output


def test_a_daemon_that_still_runs_the_hook_keeps_it(host: Place) -> None:
    """Every build would fail; after a restart nobody needs it."""
    host.with_daemon()
    host.with_systemd()
    assert ferry("install", "--yes", "--restart").exit_code == 0
    done = ferry("uninstall", "--yes")
    assert done.exit_code == 0
    assert f"'{host.hook}' stays, since the daemon runs it until then" in done.output
    assert (host.hook.exists(), (host.directory / "etc/nix.conf").exists()) == (True, False)
    assert ferry("uninstall", "--yes").exit_code == 0
    assert not host.hook.parent.exists()
    assert ferry("install", "--yes", "--restart").exit_code == 0
    assert ferry("uninstall", "--yes", "--restart").exit_code == 0
    assert not host.hook.parent.exists()


@pytest.mark.parametrize("gone", ["programs", "one", "none"])
def test_a_hook_without_programs_is_recognised(host: Place, tmp_path: Path, gone: str) -> None:
    """It answers all the same, and only `doctor` tells."""
    programs = tmp_path / "programs"
    for name in ("nix-ferry-broker", "nix-ferry-standalone"):
        programs.mkdir(exist_ok=True)
        (programs / name).touch(0o755)
    host.hook.parent.mkdir(parents=True)
    host.hook.touch(0o755)
    (host.hook.parent / "programs").symlink_to(programs)
    if gone == "programs":
        shutil.rmtree(programs)
    elif gone == "one":
        (programs / "nix-ferry-standalone").unlink()
    assert lacking(str(host.hook)) == (None if gone == "none" else str(programs))
