"""How a machine is reached: the words ssh is given, its environment and the host-key file.

Nothing here runs ssh; test_child.py has the process, and tests/lab/test_ssh.py a real ssh that meets a real sshd.
"""

import base64
import os
import stat
from pathlib import Path

import pytest

from hook.errors import ConfigurationError
from hook.machines.builders import Machine, parse_machines
from hook.remote import ssh as transport
from hook.remote.child import Command
from hook.remote.ssh import command_for
from hook.scratch import scratch_directory

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHnBSNwTpZKDwUxkVhGZ7rQeTIkCXpKJr6iM4Wz4mV9y"
PINNED = base64.b64encode(f"{KEY} root@b1\n".encode()).decode()

OURS = (
    *("-T", "-oBatchMode=yes", "-oPermitLocalCommand=no"),
    *("-oConnectTimeout=7", "-oServerAliveInterval=15", "-oServerAliveCountMax=3", "-oControlPersist=60"),
    *("-oRemoteCommand=none", "-oClearAllForwardings=yes"),
)
"""On every command line, after NIX_SSHOPTS and before what the line of `builders` asks for."""

DAEMON = ("nix-daemon", "--stdio")
SERVE = ("nix-store", "--serve", "--write")


@pytest.fixture(autouse=True)
def old_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed here."""
    monkeypatch.setattr(transport, "ssh_release", lambda environ: (8, 4))


def machine(line: str) -> Machine:
    machines, warnings = parse_machines(
        line, default_system="x86_64-linux", release=(2, 34), read_file=lambda path: Path(path).read_text()
    )
    assert warnings == []
    (only,) = machines
    return only


def command(line: str, release: tuple[int, int] = (2, 34), private_dir: Path | str = "/private", **env: str) -> Command:
    return command_for(machine(line), env, str(private_dir), release, 7)


# The command line

LINES = {
    "b1": ("b1", (), SERVE),
    "root@b1": ("root@b1", (), SERVE),
    "ssh-ng://b1": ("b1", (), DAEMON),
    "ssh-ng://joe@b1": ("joe@b1", (), DAEMON),
    "ssh-ng://joe@b1:2222": ("joe@b1", ("-p2222",), DAEMON),
    "ssh-ng://j%40e@b1": ("j@e@b1", (), DAEMON),
    "ssh-ng://[::1]": ("::1", (), DAEMON),
    "ssh-ng://[fe80::1%25eth0]:2222": ("fe80::1%eth0", ("-p2222",), DAEMON),
    "ssh-ng://joe@[::1]:2222": ("joe@::1", ("-p2222",), DAEMON),
    "ssh-ng://fe80::1": ("fe80::1", (), DAEMON),
    "ssh-ng://root@localhost": ("root@localhost", (), DAEMON),
    "ssh-ng://localhost:22": ("localhost", ("-p22",), DAEMON),
    "ssh-ng://b1 - /etc/nix/key": ("b1", ("-i/etc/nix/key",), DAEMON),
    "ssh-ng://b1?ssh-key=/etc/nix/a%20key": ("b1", ("-i/etc/nix/a key",), DAEMON),
    "ssh-ng://b1?ssh-key=/uri - /column": ("b1", ("-i/column",), DAEMON),
    "ssh-ng://b1?ssh-key=-oProxyCommand=x": ("b1", ("-i-oProxyCommand=x",), DAEMON),
    "ssh-ng://b1?compress=true": ("b1", ("-C",), DAEMON),
    "ssh-ng://b1?compress=0": ("b1", (), DAEMON),
    "ssh://b1:2?compress=yes&ssh-key=/k": ("b1", ("-i/k", "-C", "-p2"), SERVE),
    "ssh-ng://b1?remote-program=/opt/nix/bin/nix-daemon": ("b1", (), ("/opt/nix/bin/nix-daemon", "--stdio")),
    "ssh-ng://b1?remote-program=sudo%20-n%20%20nix-daemon": ("b1", (), ("sudo", "-n", "nix-daemon", "--stdio")),
    "ssh://b1?remote-program=/opt/nix-store": ("b1", (), ("/opt/nix-store", "--serve", "--write")),
    "ssh-ng://b1?remote-store=local": ("b1", (), (*DAEMON, "--store", "local")),
    "ssh://b1?remote-store=/x": ("b1", (), (*SERVE, "--store", "/x")),
}


@pytest.mark.parametrize("line", LINES)
def test_a_machine_line_becomes_these_words_and_no_others(line: str) -> None:
    """What ssh is told, letter by letter: host first, everything that could be an option glued to one."""
    host, options, remote = LINES[line]
    assert command(line).argv == ("ssh", host, "-x", *OURS, *options, "--", *remote)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", ()),
        ("  ", ()),
        ("-p 2222 -oBatchMode=no", ("-p", "2222", "-oBatchMode=no")),
        ("-oProxyCommand='nc -X 5 %h %p'", ("-oProxyCommand=nc -X 5 %h %p",)),
        ('-i "/a key" -i /b\\ key', ("-i", "/a key", "-i", "/b key")),
        ("-o# -v", ("-o#", "-v")),
    ],
)
def test_nix_sshopts_come_before_everything_they_may_override(options: str, words: tuple[str, ...]) -> None:
    """ssh keeps the first value of an option that it sees."""
    argv = command("ssh-ng://b1:22", NIX_SSHOPTS=options).argv
    assert argv == ("ssh", "b1", "-x", *words, *OURS, "-p22", "--", *DAEMON)


@pytest.mark.parametrize(
    "options",
    ["-L 1:b:2", "-R1:b:2", "-D 1080", "-oLocalForward='1 b:2'", "-o 'remoteforward 1 b:2'", "-oDynamicForward=1080"],
)
def test_who_forwards_ports_by_nix_sshopts_keeps_them(options: str) -> None:
    """They were meant for builds; those of a Host block were meant for its user's own ssh."""
    assert "-oClearAllForwardings=yes" not in command("ssh-ng://b1", NIX_SSHOPTS=options).argv


SINCE_8_7 = ("-oSessionType=default", "-oStdinNull=no", "-oForkAfterAuthentication=no")
NEWER = {
    (0, 0): (),
    (8, 4): (),
    (8, 6): ("-oKnownHostsCommand=none",),
    (8, 7): (*SINCE_8_7, "-oKnownHostsCommand=none"),
    (10, 2): (*SINCE_8_7, "-oKnownHostsCommand=none"),
}


@pytest.mark.parametrize("release", NEWER)
def test_ssh_is_told_nothing_that_it_has_no_word_for(
    release: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end with an error; and `IgnoreUnknown` on the command line would undo the user's own."""
    line = f"ssh-ng://b1 - - - - - - {PINNED}"
    old = set(command(line, private_dir=tmp_path).argv)
    monkeypatch.setattr(transport, "ssh_release", lambda environ: release)
    argv = command(line, private_dir=tmp_path).argv
    assert tuple(word for word in argv if word not in old) == NEWER[release]


def test_nix_sshopts_that_cannot_be_split_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"^NIX_SSHOPTS cannot be split into words: No closing quotation$"):
        command("ssh-ng://b1", NIX_SSHOPTS="-oUser='joe")


@pytest.mark.parametrize(
    ("authority", "kind"),
    [("-oProxyCommand=x", "host"), ("%2Dv", "host"), ("joe@-v", "host"), ("-v@b1", "user"), ("%2dv@b1", "user")],
)
def test_a_host_or_user_that_ssh_would_take_for_an_option_is_refused(authority: str, kind: str) -> None:
    """The line is left out with a warning, before anything could be run."""
    for scheme in ("ssh", "ssh-ng"):
        machines, (warning,) = parse_machines(
            f"{scheme}://{authority}", default_system="", release=(2, 34), read_file=lambda path: path
        )
        assert machines == []
        assert f"{kind} name '-" in warning


@pytest.mark.parametrize("value", ["", "%20"])
def test_an_empty_remote_program_is_refused(value: str) -> None:
    """The remote shell would run `--stdio`."""
    with pytest.raises(ConfigurationError, match="'remote-program' is empty"):
        command(f"ssh-ng://b1?remote-program={value}")


def test_localhost_is_reached_without_ssh() -> None:
    """As with stock; nothing is quoted then, because no shell reads it, and the environment is the caller's."""
    for release in ((2, 8), (2, 34)):
        store = "local?root=/x&state=/y"
        line = "ssh-ng://localhost?remote-store=local?root=/x%26state=/y&remote-program=/opt/nix-daemon"
        local = command(line, release, DISPLAY=":0")
        assert local.argv == ("/opt/nix-daemon", "--stdio", "--store", store)
        assert local.environ == {"DISPLAY": ":0"}
    assert command("ssh://localhost").argv == SERVE


@pytest.mark.parametrize(
    ("release", "words"),
    [((2, 8), "'local?root=/x&state=/y'"), ((2, 19), "'local?root=/x&state=/y'"), ((2, 20), "local?root=/x&state=/y")],
)
def test_remote_store_is_quoted_for_the_remote_shell_by_the_releases_that_do(
    release: tuple[int, int], words: str
) -> None:
    """An address that was written for a stock hook means the same here: since 2.20 its author adds the quotes."""
    assert command("ssh://b1?remote-store=local?root=/x%26state=/y", release).argv[-2:] == ("--store", words)


def test_ssh_says_what_it_does_when_asked_to() -> None:
    quiet = command("ssh-ng://b1").argv
    loud = command_for(machine("ssh-ng://b1"), {}, "/private", (2, 34), 7, verbose=True).argv
    end = quiet.index("--")
    assert loud == (*quiet[:end], "-v", *quiet[end:])


def test_ssh_is_left_no_way_to_ask_a_question() -> None:
    """Everything else of the environment stays: ssh-agent, HOME, and whatever a ProxyCommand needs."""
    kept = {"HOME": "/root", "SSH_AUTH_SOCK": "/agent", "MY_PROXY": "x"}
    environ = {**kept, "DISPLAY": ":0", "SSH_ASKPASS": "/usr/bin/ask", "SHELL": "/bin/fish"}
    given = command_for(machine("ssh-ng://b1"), environ, "/private", (2, 34), 7).environ
    assert given == {**kept, "SHELL": "/bin/sh", "SSH_ASKPASS_REQUIRE": "never"}


# The host key


def pinned_file(argv: tuple[str, ...]) -> str:
    (option,) = (word for word in argv if word.startswith("-oUserKnownHostsFile="))
    return option.partition("=")[2].strip('"').replace("%%", "%")


@pytest.mark.parametrize(
    "line",
    [f"ssh-ng://b1 - - - - - - {PINNED}", f"ssh-ng://b1?base64-ssh-public-host-key={PINNED.replace('=', '%3D')}"],
)
def test_a_pinned_host_key_is_the_only_one_that_counts(line: str, tmp_path: Path) -> None:
    """It is valid for whatever name ssh looks up: an alias, an address, a non-standard port."""
    argv = command(line, private_dir=tmp_path).argv
    file = pinned_file(argv)
    options = (
        *(f'-oUserKnownHostsFile="{file}"', "-oStrictHostKeyChecking=yes", "-oUpdateHostKeys=no"),
        *("-oGlobalKnownHostsFile=/dev/null", "-oNoHostAuthenticationForLocalhost=no", "-oVerifyHostKeyDNS=no"),
        *("-oControlMaster=no", "-oControlPath=none"),
    )
    assert argv == ("ssh", "b1", "-x", *OURS, *options, "--", *DAEMON)
    assert Path(file).read_text() == f"* {KEY} root@b1\n"
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o400
    assert stat.S_IMODE(os.stat(Path(file).parent).st_mode) == 0o700


def test_the_host_key_file_is_written_once(tmp_path: Path) -> None:
    """Hooks that run at the same time share it; none may find it half written, or leave anything else there."""
    line = f"ssh-ng://b1 - - - - - - {PINNED}"
    file = Path(pinned_file(command(line, private_dir=tmp_path).argv))
    before = file.stat()
    again = pinned_file(command(line.replace("b1", "b2"), private_dir=tmp_path).argv)
    assert again == str(file)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    other = base64.b64encode(b"ssh-rsa AAAA\n\nssh-ed25519 BBBB").decode()
    second = Path(pinned_file(command(f"ssh-ng://b1 - - - - - - {other}", private_dir=tmp_path).argv))
    assert second.read_text() == "* ssh-rsa AAAA\n* ssh-ed25519 BBBB\n"
    assert sorted(file.parent.iterdir()) == sorted([file, second])


def test_a_state_directory_with_a_percent_sign_is_not_taken_for_a_token(tmp_path: Path) -> None:
    """ssh expands %h and the like in this option."""
    argv = command(f"ssh-ng://b1 - - - - - - {PINNED}", private_dir=tmp_path / "100%h").argv
    assert f"{tmp_path}/100%%h/known-hosts/" in " ".join(argv)
    assert Path(pinned_file(argv)).exists()


def test_a_host_key_needs_no_room_where_it_belongs(tmp_path: Path) -> None:
    """A full or read-only disk, that of the state directory: stock has its file elsewhere."""
    (tmp_path / "file").touch()
    file = pinned_file(command(f"ssh-ng://b1 - - - - - - {PINNED}", private_dir=tmp_path / "file").argv)
    assert Path(file).is_relative_to(scratch_directory())
    assert Path(file).read_text().startswith("* ssh-")


def test_a_host_key_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is out, the hook is not."""
    (tmp_path / "file").touch()
    monkeypatch.setattr("hook.scratch._made", [str(tmp_path / "file")])
    with pytest.raises(ConfigurationError, match=r"cannot write the public host key to '.*': Not a directory"):
        command(f"ssh-ng://b1 - - - - - - {PINNED}", private_dir=tmp_path / "file")
