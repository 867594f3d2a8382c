"""The executable that Nix runs, and how it finds who serves it; what becomes of answers is in test_shim_answers.py.

Every test takes the shim as it is installed and one built with sanitizers.  The programs it starts are scripts in the
same directory, except where the real broker is asked for.
"""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests import REPOSITORY
from tests.fakes.shims import BROKER, IDENTITY, Bin, FakeBroker, Nix, message, went_alone
from tests.standing import LEFT, broker_socket

NOBODY = 65534

# A conversation


def test_the_broker_gets_everything_a_hook_has(nix: Nix, broker: FakeBroker) -> None:
    """Identity, verbosity, parent, environment, and descriptors that lead to the parent; its status is ours."""
    running = nix.start("5", {"NIX_SSHOPTS": "-p 22 -v", "EMPTY": ""})
    running.send(b"question")
    conversation = broker.serve()
    assert (conversation.identity.decode(), conversation.format) == (IDENTITY, b"2")
    assert conversation.argument == b"5"
    assert int(conversation.parent) == os.getpid()
    assert {b"NIX_SSHOPTS=-p 22 -v", b"EMPTY="} <= set(conversation.environ)
    standard_input, output, build_log = conversation.fds
    assert conversation.hear(8) == b"question"
    os.write(output, b"before\n")
    conversation.say(message("a", b"# accept\nssh://b1\n"))
    assert conversation.hear(1) == b""
    running.send(b"inputs")
    assert os.read(standard_input, 100) == b"inputs"
    os.write(build_log, b"building\n")
    conversation.say(message("x", b"\x2a"))
    conversation.die()
    assert running.end() == (42, ["before", "# accept", "ssh://b1"])
    assert os.read(running.log, 100) == b"building\n"
    assert os.read(running.log, 100) == b""


@pytest.mark.parametrize("status", [0, 1, 100, 255])
def test_the_status_is_passed_on(nix: Nix, broker: FakeBroker, status: int) -> None:
    """Nix reads the outcome of a build from it."""
    running = nix.start()
    conversation = broker.serve()
    conversation.say(message("x", bytes([status])))
    conversation.die()
    assert running.end() == (status, [])


def test_without_an_argument_the_verbosity_is_empty(nix: Nix, broker: FakeBroker) -> None:
    """Somebody runs the hook by hand; the broker knows what to say to that."""
    nix.start("")
    assert broker.accept().argument == b""


def test_a_killed_hook_is_noticed_by_the_broker(nix: Nix, broker: FakeBroker) -> None:
    """Nix kills without a warning; the end of the connection is the only sign."""
    running = nix.start()
    conversation = broker.serve()
    conversation.say(message("a", b"# accept\nb1\n"))
    running.process.kill()
    assert conversation.is_over()


def test_a_long_environment_arrives_whole(nix: Nix, broker: FakeBroker) -> None:
    """Longer than what a socket takes at once."""
    environ = {f"LONG_{number}": "x" * 120_000 for number in range(12)}
    running = nix.start(environ=environ)
    conversation = broker.serve()
    assert {f"{name}={value}".encode() for name, value in environ.items()} <= set(conversation.environ)
    conversation.say(message("x", b"\0"))
    conversation.die()
    assert running.end() == (0, [])


@pytest.mark.parametrize("closed", ["4>&- 5<&-", "4>&-", "3<&0 0<&- 4>&- 5<&-", "0<&- 1>&-"])
def test_descriptors_that_are_missing_are_made_up(nix: Nix, broker: FakeBroker, closed: str) -> None:
    """By hand a hook has no 4 and 5; nothing of ours may be taken for one of them."""
    running = nix.start(redirect=closed)
    conversation = broker.serve()
    for number, fd in zip((0, 2, 4), conversation.fds, strict=True):
        found = os.readlink(f"/proc/self/fd/{fd}")
        assert found == "/dev/null" if f"{number}<&-" in closed or f"{number}>&-" in closed else "pipe:" in found
    conversation.say(message("x", b"\0"))
    conversation.die()
    assert running.end() == (0, [])


# The broker dies


def test_before_its_first_word_another_one_is_asked(nix: Nix, broker: FakeBroker) -> None:
    """It has read nothing yet: one that is leaving, or makes room for this version."""
    running = nix.start()
    broker.accept().die()
    conversation = broker.serve()
    conversation.say(message("x", b"\5"))
    conversation.die()
    assert running.end() == (5, [])


def test_brokers_that_never_say_a_word_are_done_without(nix: Nix, broker: FakeBroker, programs: Bin) -> None:
    """The third is the last."""
    running = nix.start()
    for _ in range(3):
        broker.accept().die()
    assert went_alone(programs, running.end(b"all of it"), b"all of it")


# Going on alone


def test_the_user_can_do_without_a_broker(nix: Nix, broker: FakeBroker, programs: Bin) -> None:
    """It is not even asked."""
    assert went_alone(programs, nix.start(environ={"NIX_FERRY_STANDALONE": "1"}).end(b"x"), b"x")
    assert not broker.was_asked()


def test_an_empty_variable_is_none(nix: Nix, broker: FakeBroker) -> None:
    """As usual in Nix."""
    nix.start(environ={"NIX_FERRY_STANDALONE": ""})
    broker.serve()


def test_with_no_broker_to_start_it_goes_on_alone(nix: Nix, programs: Bin) -> None:
    """Half an installation is enough to build."""
    assert went_alone(programs, nix.start().end(b"x"), b"x")


def test_a_broker_that_fails_to_start_costs_nothing_but_time(nix: Nix, programs: Bin) -> None:
    """No space for its log, say."""
    programs.script("nix-ferry-broker", "#!/bin/sh\nexit 1\n")
    assert went_alone(programs, nix.start().end(b"x"), b"x")


@pytest.mark.parametrize("wrong", ["owner", "group", "others", "link", "file"])
def test_a_directory_that_others_can_change_is_not_used(
    nix: Nix, broker: FakeBroker, programs: Bin, wrong: str
) -> None:
    """Whoever listens there would get our descriptors and environment."""
    match wrong:
        case "owner":
            os.chown(programs.directory, NOBODY, NOBODY)
        case "group":
            programs.directory.chmod(0o770)
        case "others":
            programs.directory.chmod(0o702)
        case "link":
            programs.directory.rename(programs.state / "elsewhere")
            programs.directory.symlink_to("elsewhere")
        case "file":
            programs.directory.rename(programs.state / "elsewhere")
            programs.directory.touch()
    assert went_alone(programs, nix.start().end(b"x"), b"x")
    assert not broker.was_asked()


def test_a_directory_that_others_can_only_read_is_closed_to_them(nix: Nix, broker: FakeBroker, programs: Bin) -> None:
    """Nobody but us can have put anything there."""
    programs.directory.chmod(0o755)
    running = nix.start()
    conversation = broker.serve()
    conversation.say(message("x", b"\0"))
    conversation.die()
    assert running.end() == (0, [])
    assert programs.directory.stat().st_mode & 0o777 == 0o700


def test_without_a_state_directory_the_runtime_directory_serves(nix: Nix, programs: Bin, tmp_path: Path) -> None:
    """A user who may not write to Nix's state can still have a broker."""
    broker = FakeBroker(tmp_path / "nix-ferry")
    running = nix.start(environ={"NIX_STATE_DIR": str(tmp_path / "absent"), "XDG_RUNTIME_DIR": str(tmp_path)})
    conversation = broker.serve()
    conversation.say(message("x", b"\0"))
    conversation.die()
    assert running.end() == (0, [])
    broker.close()


def test_a_path_too_long_for_a_socket_means_alone(nix: Nix, programs: Bin) -> None:
    """The address of a socket has 107 bytes."""
    programs.script("nix-ferry-broker", "#!/bin/sh\ntouch $STATE/started\n")
    long = programs.state / ("long-name" * 12)
    long.mkdir()
    assert went_alone(programs, nix.start(environ={"NIX_STATE_DIR": str(long)}).end(b"x"), b"x")
    assert not (programs.state / "started").exists()


HASTY = """
#include <unistd.h>
__attribute__((weak)) int patience_ms = 500;
#define PATIENCE_MS patience_ms
#define fork() (patience_ms = 60000, fork())
"""
"""Whoever the shim starts has all the time it takes."""


@pytest.fixture
def hasty(programs: Bin) -> None:
    """A shim with less patience."""
    (programs.state / "hasty.h").write_text(HASTY)
    options = ["-D_GNU_SOURCE", "-include", programs.state / "hasty.h"]
    sources = (REPOSITORY / "native/shim").glob("*.c")
    subprocess.run(["cc", *options, "-o", programs.path / "nix-ferry-hook", *sources], check=True)


@pytest.mark.usefixtures("hasty")
def test_a_broker_that_says_nothing_is_left_alone(nix: Nix, broker: FakeBroker, programs: Bin) -> None:
    """Stopped by a signal, say: Nix must not wait for it."""
    assert went_alone(programs, nix.start().end(b"x"), b"x")
    assert broker.accept().is_over()


@pytest.mark.usefixtures("hasty")
def test_a_broker_that_accepts_nobody_is_left_alone(nix: Nix, programs: Bin) -> None:
    """When it has been stopped for long, not even connecting succeeds."""
    broker = FakeBroker(programs.directory)
    broker._socket.listen(0)
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(broker_socket(programs.directory)))
        assert went_alone(programs, nix.start().end(b"x"), b"x")
    broker.close()


# Starting a broker


def test_a_broker_is_started_with_nothing_of_the_hook(nix: Nix, programs: Bin) -> None:
    """Nix waits until everybody has closed its pipes, and then kills the hook's whole process group."""
    programs.script("nix-ferry-broker", BROKER)
    os.mkfifo(programs.state / "life")
    running = nix.start()
    pid = running.process.pid
    # Ends only if the broker, which goes on, has no copy of the pipes.
    assert running.end() == (7, [])
    assert os.read(running.log, 100) == b""
    with open(programs.state / "life", "wb"):
        facts = json.loads((programs.state / "broker.json").read_text())
    fds = facts["fds"]
    assert {fd: fds[fd] for fd in "012"} == dict.fromkeys("012", "/dev/null")
    assert fds["3"].startswith("pipe:")
    assert sorted(fds) == ["0", "1", "2", "3"]
    assert facts["cwd"] == "/"
    assert {name for name in facts["environ"] if not name.startswith("LC_")} == {"PATH"}
    assert facts["environ"]["PATH"] != os.environ["PATH"]
    assert facts["session"] == facts["group"] != facts["pid"]
    assert facts["session"] not in (pid, os.getsid(0))


@pytest.mark.parametrize("leaks", [True, False])
def test_a_broker_is_started_where_nix_began(programs: Bin, leaks: bool) -> None:
    """Not in the mount namespace that Nix made for itself; with a socket of systemd's a daemon leaks no way back."""
    programs.script("nix-ferry-broker", BROKER)
    os.mkfifo(programs.state / "life")
    environ = {"NIX_STATE_DIR": str(programs.state), "PATH": os.environ["PATH"]}
    nix = LEFT.replace("leaks", str(leaks)).replace("check=True", "check=False")
    command = [sys.executable, "-c", nix, str(programs.path / "nix-ferry-hook"), "3"]
    subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
    with open(programs.state / "life", "wb"):
        facts = json.loads((programs.state / "broker.json").read_text())
    assert facts["mounts"] == os.readlink("/proc/self/ns/mnt")


def test_what_other_programs_python_is_told_does_not_reach_the_broker(nix: Nix, programs: Bin, tmp_path: Path) -> None:
    """In a shell for developing something in Python, PYTHONPATH leads to that."""
    (tmp_path / "hook.py").write_text("raise SystemExit(13)\n")
    programs.real("nix-ferry-broker")
    assert nix.start(environ={"PYTHONPATH": str(tmp_path)}).end() == (0, [])
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(broker_socket(programs.directory)))
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    os.kill(pid, signal.SIGKILL)


def test_hooks_that_start_together_share_one_broker(nix: Nix, programs: Bin) -> None:
    """Nix starts one hook for every build it has."""
    programs.real("nix-ferry-broker")
    hooks = [nix.start() for _ in range(8)]
    for running in hooks:
        assert running.end() == (0, [])
    log = (programs.directory / "broker.log").read_text()
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(broker_socket(programs.directory)))
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    assert log.count("listening") == 1
    assert not (programs.state / "alone.heard").exists()
