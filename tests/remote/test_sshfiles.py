"""Which files ssh reads, when one has changed, and which of them decide by the moment."""

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from hook.remote import sshfiles
from hook.remote.sshfiles import MOST_FILES, SshFiles, ssh_files

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """A function that writes a file below the home directory `home` or the system's directory `etc`."""
    (tmp_path / "home/.ssh").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    monkeypatch.setattr(sshfiles, "SYSTEM_DIRECTORY", str(tmp_path / "etc"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_dir=str(tmp_path / "home")))

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


def read(*argv: str) -> SshFiles:
    return ssh_files(("ssh", "b1", *argv))


def test_the_files_of_the_user_and_of_the_system_are_read(write: Write, tmp_path: Path) -> None:
    """Also if there are none yet."""
    files = read()
    assert set(files.stamps) == {f"{tmp_path}/home/.ssh/config", f"{tmp_path}/etc/ssh_config"}
    assert files.are_current()
    write("home/.ssh/config", "Host b1\n")
    assert not files.are_current()


def test_the_variables_that_files_name_are_known(write: Write) -> None:
    """However they are written, and in whichever file."""
    write("home/.ssh/config", "IdentityFile ~/.ssh/${KEY}\nInclude more\nHost b1 # no $\n")
    write("home/.ssh/more", "ProxyCommand nc -x $PROXY %h %p\n")
    assert read().variables == {"KEY", "PROXY"}


def test_the_variables_that_are_sent_are_known(write: Write) -> None:
    """Also of files that have nothing for this machine."""
    write("home/.ssh/config", 'SendEnv LANG "LC_*" # not this\n  sendenv=TOKEN\nInclude more\n')
    write("home/.ssh/more", "Host other\n\tSENDENV -LANG MORE_?\n")
    assert read().sent == {"LANG", "LC_*", "TOKEN", "-LANG", "MORE_?"}


CHANGES = {
    "user": "home/.ssh/config",
    "system": "etc/ssh_config",
    "relative": "home/.ssh/more",
    "pattern": "home/.ssh/hosts/b1",
    "another": "home/.ssh/hosts/later",
    "home": "home/elsewhere/config",
    "system-relative": "etc/ssh_config.d/one.conf",
    "nested": "etc/nested",
    "absent": "home/.ssh/absent",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_any_of_them_is_seen(write: Write, tmp_path: Path, change: str) -> None:
    """Whatever way it is included, and files that come later, too."""
    write("home/.ssh/config", 'Host b1\n  include more "hosts/*" # all\nINCLUDE = ~/elsewhere/config absent\n')
    write("home/.ssh/more", "")
    write("home/.ssh/hosts/b1", "")
    write("home/elsewhere/config", "")
    write("etc/ssh_config", "Include ssh_config.d/*.conf\n")
    write("etc/ssh_config.d/one.conf", f'"Include" {tmp_path}/etc/nested\n')
    write("etc/nested", "")
    files = read()
    assert files.are_current()
    assert not files.momentary
    write(CHANGES[change], "User joe\n")
    assert not files.are_current()


@pytest.mark.parametrize(
    ("text", "momentary"),
    [
        ("Match exec true", True),
        ('  match host b1 !exec "test -e /x"', True),
        ("Match=localnetwork 10.0.0.0/8", True),
        ("Match host=b1 exec=true", True),
        ("Match host b1 user joe", False),
        ("Match final all", False),
        ("# Match exec true", False),
        ("ProxyCommand exec nc %h %p", False),
        ("Include ${HOME}/config", True),
        ("Include ~joe/config", True),
        ("Include %d/config", True),
    ],
)
def test_what_decides_by_the_moment_is_recognised(write: Write, text: str, momentary: bool) -> None:
    """Also in a file that is included; and what cannot be followed is taken for it."""
    write("home/.ssh/config", f"Host x\n{text}\n")
    assert read().momentary is momentary
    write("home/.ssh/config", "Include more\n")
    write("home/.ssh/more", text)
    assert read().momentary is momentary


@pytest.mark.parametrize("words", [("-F", "{}/own"), ("-F{}/own",)])
def test_a_file_of_the_command_line_is_there_instead(write: Write, tmp_path: Path, words: tuple[str, ...]) -> None:
    write("own", "Match exec true\n")
    files = read(*(word.format(tmp_path) for word in words))
    assert set(files.stamps) == {f"{tmp_path}/own"}
    assert files.momentary
    assert read("-Fnone").stamps == {}


def test_files_that_include_each_other_or_many_come_to_an_end(write: Write) -> None:
    write("home/.ssh/config", "Include config many/*\n")
    for number in range(MOST_FILES):
        write(f"home/.ssh/many/{number}", "Include ../config\n")
    assert read().momentary


def test_a_user_without_a_name_has_no_file(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that was given a number only; ssh does not run there, but hooks do."""

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    write("etc/ssh_config", "Include ~/x \0\n")
    assert f"{tmp_path}/etc/ssh_config" in read().stamps


def test_what_cannot_be_read_is_taken_to_decide_by_the_moment(write: Write, tmp_path: Path) -> None:
    """And a pipe is not waited for."""
    (tmp_path / "home/.ssh/config").mkdir()
    assert read().momentary
    (tmp_path / "home/.ssh/config").rmdir()
    os.mkfifo(tmp_path / "home/.ssh/config")
    assert not read().momentary
