"""Which way leads to a machine, and which settings take effect at its end; each kind of address is a row."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hook.errors import ConfigurationError, StockOnly
from hook.machines.builders import Machine, parse_machines
from hook.machines.identity import is_handled
from hook.remote.child import Command
from hook.remote.routes import Route, Routes
from hook.remote.unixsocket import UnixSocket
from hook.values.settings import Settings

SETTINGS = {
    "access-tokens": " example.org=secret",
    "bash-prompt": "# ",
    "build-hook": "/bin/hook",
    "builders": "somewhere",
    "connect-timeout": "7",
    "cores": "3",
    "experimental-features": "ca-derivations",
    "fallback": "true",
    "keep-failed": "true",
    "max-jobs": "0",
    "max-silent-time": "11",
    "sandbox": "relaxed",
    "store": "auto",
    "substitute": "false",
    "timeout": "9",
}


def machine(line: str, release: tuple[int, int] = (2, 34)) -> Machine:
    machines, warnings = parse_machines(line, default_system="x86_64-linux", release=release, read_file=str)
    assert warnings == []
    return machines[0]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A PATH with a Nix in it, and a state directory."""
    program = tmp_path / "nix"
    program.write_text("")
    program.chmod(0o755)
    (tmp_path / "state").mkdir()
    return {"PATH": str(tmp_path), "NIX_STATE_DIR": str(tmp_path / "state"), "NIX_CONFIG": "cores = 1"}


def route(
    line: str, environ: dict[str, str], release: tuple[int, int] = (2, 34), settings: dict[str, str] = SETTINGS
) -> Route:
    return Routes(Settings(settings), release, environ, "/private", os.getpid(), 5).to(machine(line, release))


def child(
    line: str, environ: dict[str, str], release: tuple[int, int] = (2, 34), settings: dict[str, str] = SETTINGS
) -> Command:
    way = route(line, environ, release, settings)
    assert isinstance(way, Command)
    return way


def socket(line: str, environ: dict[str, str]) -> UnixSocket:
    way = route(line, environ)
    assert isinstance(way, UnixSocket)
    return way


STORES = {
    "/x": "/x?system-features=",
    "./x": "./x?system-features=",
    "local": "local?system-features=",
    "auto": "auto?system-features=",
    "local:///x": "local:///x?system-features=",
    "local?root=/a%20b&real=/c": "local?real=/c&root=/a%20b&system-features=",
    "/x - - 1 1 kvm,big b,z": "/x?system-features=b%20big%20kvm%20z",
    "/x?system-features=own - - 1 1 kvm": "/x?system-features=own%20kvm",
}


@pytest.mark.parametrize("line", STORES)
def test_a_store_is_opened_by_a_child_with_the_features_of_its_line(line: str, environ: dict[str, str]) -> None:
    """As stock opens it: what the line does not list it does not build."""
    command = child(line, environ)
    assert command.argv[:4] == ("nix-daemon", "--stdio", "--store", STORES[line])
    assert command.program == f"{environ['PATH']}/nix"


def test_before_2_23_features_of_the_address_are_lost(environ: dict[str, str]) -> None:
    argv = child("/x?system-features=own - - 1 1 kvm", environ, (2, 20)).argv
    assert argv[3] == "/x?system-features=kvm"


def test_the_child_has_our_settings(environ: dict[str, str]) -> None:
    """Instead of those of its user; secrets are not for everybody to read, so they are not on its command line."""
    command = child("/x", environ)
    lines = command.environ["NIX_CONFIG"].splitlines()
    assert {"sandbox = relaxed", "cores = 3", "access-tokens = example.org=secret", "keep-failed = true"} <= set(lines)
    assert command.argv[4:] == ()
    assert command.has_settings
    assert command.environ["PATH"] == environ["PATH"]


VALUES = {
    "plain": True,
    "": True,
    " before": True,
    "after ": True,
    "\tbefore": True,
    "two words": True,
    "two  blanks": False,
    "two\nlines": False,
    "two\twords": False,
    "a#b": False,
    "# ": False,
    "no-break\u00a0space": False,
    "\u00a0before": False,
    "nul\0": False,
    "x" * 200_000: False,
    "not UTF-8: \udcff": True,
}
"""Values of a setting, and whether they can be a line of NIX_CONFIG."""


@pytest.mark.parametrize(("value", "fits"), VALUES.items(), ids=lambda value: repr(value)[:20])
def test_no_value_is_for_other_users_to_read(value: str, fits: bool, environ: dict[str, str]) -> None:
    """A command line is; what no configuration can hold goes over the connection."""
    command = child("/x", environ, settings={"a": "1", "access-tokens": value, "b": "2"})
    assert len(command.argv) == 4
    lines = command.environ["NIX_CONFIG"].split("\n")
    assert {"a = 1", "b = 2"} <= set(lines)
    line = f"access-tokens = {value.strip()}"
    if fits:
        assert line in lines
        assert command.options is None
    else:
        assert "access-tokens" not in command.environ["NIX_CONFIG"]
        assert command.options is not None
        assert command.options.others == {"access-tokens": value}


def test_what_a_daemon_takes_only_when_it_starts_is_on_its_command_line(environ: dict[str, str]) -> None:
    """Neither is a secret."""
    command = child("/x", environ, settings={"plugin-files": "/a#b", "post-build-hook": "/c#d"})
    assert command.argv[4:] == ("--option", "plugin-files", "/a#b")
    assert command.options is not None
    assert command.options.others == {"post-build-hook": "/c#d"}


def test_the_child_builds_itself_and_builds_at_all(environ: dict[str, str]) -> None:
    """With `max-jobs = 0`, as with -j0 here, it would not."""
    lines = child("/x", environ).environ["NIX_CONFIG"].splitlines()
    assert "max-jobs = 1" in lines
    assert "builders = " in lines
    assert [line for line in lines if line.startswith(("build-hook", "store", "cores = 1"))] == []


def test_a_nix_reads_what_the_child_is_given(environ: dict[str, str]) -> None:
    """The format of NIX_CONFIG, by the Nix of this machine."""
    nix = shutil.which("nix-store")
    assert nix is not None
    config = child("/x", environ).environ["NIX_CONFIG"]
    shown = subprocess.run(
        ["nix", "--extra-experimental-features", "nix-command", "show-config"],
        env={"PATH": os.environ["PATH"], "NIX_CONFIG": config, "HOME": environ["NIX_STATE_DIR"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert {"sandbox = relaxed", "cores = 3", "max-jobs = 1", "timeout = 9"} <= set(shown.stdout.splitlines())


def test_without_a_nix_such_a_machine_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'nix' is not in PATH"):
        route("/x", {"PATH": str(tmp_path)})


SOCKETS = {
    "unix:///run/nix.socket": "/run/nix.socket",
    "unix:///run/a%20b?root=/x": "/run/a b",
    "unix://": "{state}/daemon-socket/socket",
    "daemon": "{state}/daemon-socket/socket",
    "daemon?priority=3": "{state}/daemon-socket/socket",
    "daemon?state=/s": "/s/daemon-socket/socket",
}


@pytest.mark.parametrize("line", SOCKETS)
def test_a_daemon_is_reached_by_its_socket(line: str, environ: dict[str, str]) -> None:
    assert socket(line, environ).path == SOCKETS[line].format(state=environ["NIX_STATE_DIR"])


def test_the_place_of_the_daemons_socket_can_be_set(environ: dict[str, str]) -> None:
    assert socket("daemon", {**environ, "NIX_DAEMON_SOCKET_PATH": "/run/nix"}).path == "/run/nix"


def test_auto_is_a_daemon_where_the_state_is_not_ours(environ: dict[str, str], tmp_path: Path) -> None:
    """And where there is one; otherwise Nix knows what it is."""
    absent = {**environ, "NIX_STATE_DIR": str(tmp_path / "absent")}
    assert child("auto", absent).argv[3] == "auto?system-features="
    (tmp_path / "listening").touch()
    assert socket("auto", {**absent, "NIX_DAEMON_SOCKET_PATH": f"{tmp_path}/listening"}).path.endswith("/listening")


def test_a_daemon_is_sent_our_settings(environ: dict[str, str]) -> None:
    """Those with a place of their own in SetOptions there, and only there."""
    way = socket("daemon", environ)
    for options in (way.options, way.humble_options):
        assert (options.keep_failed, options.keep_going, options.fallback) == (True, False, True)
        assert (options.cores, options.max_silent_time_s, options.substitute) == (3, 11, False)
    assert way.options.others.keys() == {"access-tokens", "bash-prompt", "connect-timeout", "sandbox", "timeout"}
    assert way.humble_options.others.keys() == {"connect-timeout", "timeout"}


@pytest.mark.parametrize("line", ["ssh-ng://b1", "ssh://b1", "b1"])
def test_everything_else_that_we_handle_goes_through_ssh(line: str, environ: dict[str, str]) -> None:
    command = child(line, environ)
    assert command.argv[:2] == ("ssh", "b1")
    assert not command.has_settings


@pytest.mark.parametrize("line", ["mounted-ssh-ng://b1", "https://b1", "dummy://", "s3://bucket", "file:///cache"])
def test_exotic_machines_are_left_to_stock(line: str, environ: dict[str, str]) -> None:
    assert not is_handled(machine(line))
    with pytest.raises(StockOnly, match=r"^a machine of the kind '"):
        route(line, environ)
