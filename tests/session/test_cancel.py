"""Whoever is killed, and whenever: no slot stays taken, no remote end stays alive, nothing half done is registered.

The machine is a scripted daemon that hangs at one point, and that says so through a pipe which ends with it.  That the
pipes of Nix end tells that nobody works on the build any more.
"""

import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest

from tests.fakes.bench import Bench
from tests.fakes.daemon import CHATTY_LINES
from tests.lab.container import wait_until

LARGE = b"x" * (8 << 20)
"""More than the pipes on the way take."""

POINTS = ["silent", *(f"hang-{step}" for step in (
    "query_valid_paths", "add_multiple_to_store", "build_derivation", "query_path_info", "nar_from_path"
)), "rant-add_multiple_to_store", "rant-build_derivation"]  # fmt: skip


@pytest.fixture
def life(tmp_path: Path) -> Path:
    """The pipe of the scripted daemon."""
    path = tmp_path / "life"
    os.mkfifo(path)
    return path


class Build:
    """A hook whose build hangs; a large input is on the way there."""

    def __init__(self, bench: Bench, behaviour: str, life: Path, machine: str = "") -> None:
        large = bench.store.add(LARGE, f"large-{len(bench.store.valid())}")
        data = bench.preamble([machine or bench.machine(behaviour)]) + bench.request() + bench.job(inputs=[large])
        self.hook = bench.start(data, LIFE=str(life))
        self._daemon = life.open()
        assert self._daemon.readline() == "hanging\n"

    def wait_for_end(self) -> list[bytes]:
        """Until neither the remote end nor anybody with Nix's pipe is left; returns what Nix was told."""
        with self.hook, self._daemon:
            self._daemon.read()
            return lines_of(self.hook)


def lines_of(hook: subprocess.Popen[bytes]) -> list[bytes]:
    assert hook.stderr is not None
    return hook.stderr.read().splitlines()


def answer_of(hook: subprocess.Popen[bytes]) -> bytes:
    stderr: IO[bytes] | None = hook.stderr
    assert stderr is not None
    return next(line for line in stderr if line.startswith(b"# "))


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_hook_takes_its_build_along(bench: Bench, life: Path, point: str) -> None:
    """Ctrl-C: Nix kills its hooks without a warning."""
    build = Build(bench, point, life)
    broker = bench.broker_pid()
    build.hook.kill()
    build.wait_for_end()
    assert bench.held_slots() == []
    assert not bench.outputs_valid()
    assert bench.build(bench.machine("ok")).status == 0
    assert bench.outputs_valid()
    assert bench.broker_pid() == broker


@pytest.mark.parametrize("point", POINTS[:3])
def test_a_hook_killed_while_its_inputs_travel_leaves_the_way_free(brokered: Bench, life: Path, point: str) -> None:
    """It waits for a slot: the next build gets just as far, with the same input to the same machine."""
    bench = brokered
    machine = bench.machine(point, jobs=1)
    with bench.take_slot(machine):
        for _ in range(2):
            build = Build(bench, point, life, machine)
            build.hook.kill()
            build.wait_for_end()
            assert len(bench.held_slots()) == 1
    assert bench.held_slots() == []
    assert not bench.outputs_valid()


def test_a_hook_killed_while_it_waits_leaves_the_line(brokered: Bench) -> None:
    """The slot that it waited for goes to the next one."""
    bench = brokered
    machine = bench.machine("ok", jobs=1)
    data = bench.preamble([machine]) + bench.request() + bench.job()
    with bench.take_slot(machine) as slot:
        first, second = bench.start(data), bench.start(data)
        with first, second:
            assert answer_of(first) == b"# accept\n"
            assert answer_of(second) == b"# accept\n"
            first.kill()
            lines_of(first)
            assert not bench.outputs_valid()
            slot.close()
            lines_of(second)
    assert second.returncode == 0
    assert bench.outputs_valid()
    assert bench.held_slots() == []


def test_a_hook_killed_while_others_write_to_the_database_registers_nothing(brokered: Bench) -> None:
    """With Nix went the locks of the outputs: the next build may be writing them anew when the database is free."""
    bench = brokered
    outputs = [Path(f"{bench.store.root}{path}") for path in bench.store.outputs.values()]
    data = bench.preamble([bench.machine("ok")]) + bench.request() + bench.job()
    with closing(sqlite3.connect(bench.store.state / "db/db.sqlite", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with bench.start(data) as hook:
            wait_until(lambda: all(path.exists() and path.lstat().st_mtime == 1 for path in outputs), "the outputs")
            hook.kill()
            lines_of(hook)
    assert not bench.outputs_valid()
    assert bench.build(bench.machine("ok")).status == 0
    assert bench.outputs_valid()


def test_a_hook_killed_while_nix_reads_nothing_takes_its_build_along(brokered: Bench, life: Path) -> None:
    """Nix is stopped, by Ctrl-Z say, and its pipe is full of a build's log."""
    bench = brokered
    data = bench.preamble([bench.machine("chatty")]) + bench.request() + bench.job()
    with open(os.open(life, os.O_RDONLY | os.O_NONBLOCK)) as daemon, bench.start(data, LIFE=str(life)) as hook:
        assert hook.stderr is not None
        pipe = hook.stderr.fileno()
        most = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
        wait_until(lambda: unread(pipe) > most - (4 << 10), "a full pipe")
        os.set_blocking(daemon.fileno(), True)
        hook.kill()
        assert daemon.read() == ""
        wait_until(lambda: bench.held_slots() == [], "a free slot")
    assert not bench.outputs_valid()
    assert bench.build(bench.machine("ok")).status == 0


def test_a_log_that_is_read_slowly_arrives_whole(brokered: Bench) -> None:
    """Who waits for room in a pipe must lose nothing of it."""
    bench = brokered
    with bench.start(bench.preamble([bench.machine("chatty")]) + bench.request()) as hook:
        assert hook.stdin is not None
        assert hook.stderr is not None
        # As Nix: what the hook itself writes does not come in the middle of the log.
        assert answer_of(hook) == b"# accept\n"
        hook.stdin.write(bench.job())
        hook.stdin.flush()
        pipe = hook.stderr.fileno()
        most = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
        wait_until(lambda: unread(pipe) > most - (4 << 10), "a full pipe")
        lines = lines_of(hook)
    assert hook.returncode == 0
    assert sum(b"one of many lines of the log" in line for line in lines) == CHATTY_LINES
    assert all(line.startswith((b"@nix {", b"# ", b"ssh-ng://")) for line in lines)


def unread(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


NOT_SETTINGS: dict[str, Callable[[Path], None]] = {
    "fifo": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", NOT_SETTINGS)
def test_no_file_of_settings_keeps_a_thread(brokered: Bench, kind: str) -> None:
    """Whatever `builders` and the configuration name: a pipe that nobody writes to, a device without an end."""
    bench = brokered
    for file in (bench.conf_dir / "ferry.toml", bench.conf_dir / "machines"):
        NOT_SETTINGS[kind](file)
    outcome = bench.build(bench.machine("ok"), f"@{bench.conf_dir}/machines")
    assert outcome.status == 0
    assert "ferry.toml': Is not a regular file; it is ignored" in outcome.messages
    assert f"cannot read machines from '{bench.conf_dir}/machines': Is not a regular file" in outcome.messages


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_broker_takes_its_builds_along(brokered: Bench, life: Path, point: str) -> None:
    """Out of memory, say: Nix is told, or its own hook answers; and the next hook has another broker."""
    bench = brokered
    build = Build(bench, point, life)
    broker = bench.broker_pid()
    bench.kill_broker()
    assert build.hook.stdin is not None
    build.hook.stdin.close()
    lines = build.wait_for_end()
    answers = [line for line in lines if line.startswith(b"# ")]
    # An accept that the hook had not passed on yet is none: the broker is faster than that on a busy machine.
    accepted = answers == [b"# accept"] and point != "silent"
    assert accepted or answers == [b"# decline-permanently"]
    assert build.hook.returncode == (1 if accepted else 7)
    assert sum(b"the broker ended" in line for line in lines) == 1
    assert bench.held_slots() == []
    assert not bench.outputs_valid()
    assert bench.build(bench.machine("ok")).status == 0
    assert bench.broker_pid() not in (None, broker)


def test_a_killed_broker_takes_its_idle_connections_along(brokered: Bench, life: Path) -> None:
    """They are nobody's children then, and nobody would ever use them again."""
    bench = brokered
    with open(os.open(life, os.O_RDONLY | os.O_NONBLOCK)) as daemon:
        data = bench.preamble([bench.machine("ok")]) + bench.request() + bench.job()
        with bench.start(data, LIFE=str(life)) as hook:
            lines_of(hook)
        os.set_blocking(daemon.fileno(), True)
        bench.kill_broker()
        assert daemon.read() == ""


def test_a_stopped_hook_is_no_dead_hook(brokered: Bench, life: Path) -> None:
    """Its build goes on, and others are served."""
    bench = brokered
    build = Build(bench, "hang-build_derivation", life)
    build.hook.send_signal(signal.SIGSTOP)
    with bench.start(bench.preamble([bench.machine("ok", "other")]) + bench.request() + bench.job()) as other:
        assert answer_of(other) == b"# accept\n"
        lines_of(other)
    assert bench.outputs_valid()
    assert len(bench.held_slots()) == 1
    build.hook.send_signal(signal.SIGCONT)
    build.hook.kill()
    build.wait_for_end()
