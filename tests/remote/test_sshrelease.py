"""Which OpenSSH it is, by a script that says so; it is asked once."""

from pathlib import Path

import pytest

from hook.remote import ssh as transport
from hook.remote.ssh import ssh_program, ssh_release


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this host is."""
    monkeypatch.setattr(transport, "RELEASE_TIMEOUT_S", 60.0)


def install(directory: Path, said: str) -> dict[str, str]:
    """An environment in which `ssh -V` says this; how often it was asked is in `asked`."""
    ssh = directory / "ssh"
    ssh.unlink(missing_ok=True)
    ssh.write_text(f"#!/bin/sh\necho \"$*\" >> {directory}/asked\necho '{said}' >&2\n")
    ssh.chmod(0o755)
    return {"PATH": f"/nonexistent:{directory}:/bin:/usr/bin"}


@pytest.mark.parametrize(
    ("said", "release"),
    [
        ("OpenSSH_8.4p1 Debian-5+deb11u3, OpenSSL 1.1.1w  11 Sep 2023", (8, 4)),
        ("OpenSSH_10.2p1 Debian-3, OpenSSL 3.5.4", (10, 2)),
        ("Pseudo-terminal will not be allocated\nOpenSSH_9.2p1", (9, 2)),
        ("another ssh", (0, 0)),
    ],
)
def test_it_is_what_the_program_says(tmp_path: Path, said: str, release: tuple[int, int]) -> None:
    assert ssh_release(install(tmp_path, said)) == release


def test_it_is_asked_once_until_it_is_replaced(tmp_path: Path) -> None:
    """A broker lives through upgrades."""
    environ = install(tmp_path, "OpenSSH_8.4p1")
    assert ssh_release(environ) == ssh_release(environ) == (8, 4)
    assert (tmp_path / "asked").read_text() == "-V\n"
    assert ssh_release(install(tmp_path, "OpenSSH_9.2p1 again")) == (9, 2)


def test_without_an_ssh_there_is_nothing_to_ask(tmp_path: Path) -> None:
    """And a directory of that name is none."""
    (tmp_path / "ssh").mkdir()
    environ = {"PATH": str(tmp_path)}
    assert ssh_program(environ) is None
    assert ssh_release(environ) == (0, 0)


def test_a_release_that_ssh_did_not_tell_is_asked_for_again(tmp_path: Path) -> None:
    """It was only late; what an old one does not know makes it useless."""
    ssh, said = tmp_path / "ssh", tmp_path / "said"
    ssh.write_text(f"#!/bin/sh\ncat {said} >&2\n")
    ssh.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert ssh_release(environ) == (0, 0)
    said.write_text("OpenSSH_9.9p1, OpenSSL 3\n")
    assert ssh_release(environ) == (9, 9)
    said.unlink()
    assert ssh_release(environ) == (9, 9)
