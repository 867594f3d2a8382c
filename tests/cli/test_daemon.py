"""Whose word about the daemon's settings root takes: processes called `nix-daemon` are copies of `sleep`."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hook.cli import daemon
from hook.cli.install import where as place
from hook.errors import FerryError
from tests.lab.container import wait_until

NOBODY = 65534
ANOTHER_ETC = "mount -t tmpfs none /etc"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def nix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The Nix in PATH, with its other name beside it; no systemd."""
    monkeypatch.setattr(daemon, "SYSTEMD", str(tmp_path / "none"))
    # Not below `tmp_path`: other users must be able to run it.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        nix = Path(directory) / "nix"
        shutil.copy(Path("/bin/sleep").resolve(), nix)
        nix.with_name("nix-daemon").symlink_to("nix")
        yield nix


@pytest.fixture
def start(nix: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start the daemon of this host, or what looks like it; those of other tests that run now are none."""
    running: list[subprocess.Popen[str]] = []
    candidates = daemon._candidates
    monkeypatch.setattr(daemon, "_candidates", lambda: {each.pid for each in running}.intersection(candidates()))

    def start(*prefix: str, program: Path | None = None, **variables: str) -> subprocess.Popen[str]:
        shown = program or nix.with_name("nix-daemon")
        # What is printed comes after every change of ids and namespaces, and just before it becomes the daemon.
        command = [*prefix, "sh", "-c", 'echo; exec "$0" 60', str(shown)]
        environ = {"PATH": os.environ["PATH"], **variables}
        child = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
        running.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "\n"
        process = Path(f"/proc/{child.pid}")
        wait_until(lambda: (process / "comm").read_text().strip() != "sh", "the daemon")
        # The last thing that it gets.
        wait_until(lambda: (process / "environ").read_bytes() != b"", "its environment")
        return child

    yield start
    for child in running:
        child.kill()
        child.communicate()


def found(nix: Path) -> dict[str, str] | None:
    return daemon.environment({"PATH": str(nix.parent)})


def test_roots_daemon_tells_where_its_settings_are(start: Start, nix: Path) -> None:
    """And nothing else: no other variable of a process is one of ours."""
    start(NIX_CONF_DIR="/etc/nix", NIX_CONFIG="cores = 2", NIX_SSHOPTS="-v", LD_PRELOAD_="x", PATHS="y")
    assert found(nix) == {
        "HOME": "/root",
        "NIX_CONF_DIR": "/etc/nix",
        "NIX_CONFIG": "cores = 2",
        "NIX_REMOTE": "local",
        "PATH": str(nix.parent),
    }


def test_when_it_was_started_is_known(start: Start, nix: Path, tmp_path: Path) -> None:
    """To a tenth of a second, of the daemon only: what was written later it has not read."""
    before, after = tmp_path / "etc/nix.conf", tmp_path / "etc/more.conf"
    before.parent.mkdir()
    before.write_text("include more.conf\n")
    environ = {"NIX_CONF_DIR": str(before.parent), "HOME": str(tmp_path), "PATH": str(nix.parent)}
    start(program=Path("/bin/sleep"))
    assert daemon.started(environ) is None
    start()
    moment = daemon.started(environ)
    assert moment is not None
    assert abs(moment - time.time()) < 30
    after.write_text("")
    os.utime(after, (moment - 1, moment - 1))
    assert place.settings_files(environ) == [str(before), str(after)]
    assert place.changed_since(moment, environ) is None
    os.utime(after, (moment + 1, moment + 1))
    assert place.changed_since(moment, environ) == str(after)


@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param(["setpriv", "--reuid=65534", "--clear-groups"], id="another user"),
        pytest.param(["setpriv", "--ruid=65534"], id="a program that is set-user-id, at its prompt"),
        pytest.param(["unshare", "--mount", "sh", "-c", f'{ANOTHER_ETC} && exec "$@"', "sh"], id="with other files"),
        pytest.param(["unshare", "--user", "--map-root-user"], id="root of its own"),
    ],
)
def test_nobody_else_is_believed(start: Start, nix: Path, prefix: list[str]) -> None:
    """Or any user could choose what root reads and runs."""
    start(*prefix, NIX_CONF_DIR="/etc")
    assert found(nix) is None


def test_a_mount_namespace_of_its_own_tells_nothing(start: Start, nix: Path) -> None:
    """Every Nix daemon has one; what counts is what it sees there."""
    start("unshare", "--mount", NIX_CONFIG="cores = 2")
    assert found(nix) is not None


def test_the_name_alone_does_not_count(start: Start, nix: Path) -> None:
    """Any program of root's can be given another name, some of them by anybody."""
    other = nix.parent / "other"
    shutil.copy(Path("/bin/sleep").resolve(), other)
    (nix.parent / "more").mkdir()
    (nix.parent / "more" / "nix-daemon").symlink_to(other)
    start(program=nix.parent / "more" / "nix-daemon", NIX_CONF_DIR="/etc/nix")
    assert found(nix) is None


@pytest.mark.parametrize("guarded", [True, False])
def test_another_nix_counts_if_root_alone_can_change_it(start: Start, nix: Path, guarded: bool) -> None:
    """The daemon may run another release than the one in PATH."""
    other = nix.parent / "other"
    other.mkdir()
    shutil.copy(nix, other / "nix")
    (other / "nix-daemon").symlink_to("nix")
    if not guarded:
        os.chown(other, NOBODY, -1)
    start(program=other / "nix-daemon", NIX_CONFIG="cores = 2")
    assert (found(nix) is not None) == guarded


def test_a_nix_that_others_can_write_is_not_believed(start: Start, nix: Path) -> None:
    start(NIX_CONFIG="cores = 2")
    assert found(nix) is not None
    nix.chmod(0o777)
    assert found(nix) is None


@pytest.mark.parametrize("name", ["HOME", "NIX_CONF_DIR", "XDG_CONFIG_HOME", "NIX_USER_CONF_FILES", "XDG_CONFIG_DIRS"])
def test_settings_that_others_can_write_are_not_read(start: Start, nix: Path, tmp_path: Path, name: str) -> None:
    """Though the daemon itself does: settings can name programs to run.  The error says which they are."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, NOBODY, -1)
    value = f"/etc/nix:{theirs}" if name in ("NIX_USER_CONF_FILES", "XDG_CONFIG_DIRS") else str(theirs)
    child = start(**{name: value})
    said = rf"^the Nix daemon \(process {child.pid}\) has '{name}={value}', which others than root can change: "
    with pytest.raises(FerryError, match=said):
        found(nix)


def test_where_systemd_starts_the_daemon_it_says_which_it_is(
    start: Start, nix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that root started only one is the host's; systemd's word does not make another user's process root's."""
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(daemon, "SYSTEMD", str(tmp_path / "run"))
    monkeypatch.setenv("PATH", f"{nix.parent}:{os.environ['PATH']}")

    def main_pid(pid: int) -> None:
        (nix.parent / "systemctl").write_text(f"#!/bin/sh\necho {pid}\n")
        (nix.parent / "systemctl").chmod(0o755)

    start(NIX_CONFIG="cores = 1")
    theirs = start("setpriv", "--reuid=65534", "--clear-groups", NIX_CONFIG="cores = 2")
    main_pid(start(NIX_CONFIG="cores = 3").pid)
    assert (found(nix) or {})["NIX_CONFIG"] == "cores = 3"
    main_pid(theirs.pid)
    assert found(nix) is None
