"""`nix-ferry broker start|stop|restart` with the real broker, and `status` of it."""

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hook.cli.install.remains import end_broker
from tests.fakes.bench import Bench
from tests.lab.container import wait_until

NIX_FERRY = str(Path(sys.executable).with_name("nix-ferry"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path, broker=True) as bench:
        yield bench


def ferry(bench: Bench, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [NIX_FERRY, *arguments], env=bench.environ(), capture_output=True, text=True, check=False, timeout=60
    )


def said(bench: Bench, *arguments: str) -> str:
    done = ferry(bench, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_broker_is_started_once(bench: Bench) -> None:
    """It serves hooks like one that a hook has started, and outlives the command's session."""
    assert said(bench, "broker", "start") == f"the broker is running, as process {bench.broker_pid()}\n"
    pid = bench.broker_pid()
    assert pid is not None
    assert os.getsid(pid) == pid
    assert said(bench, "broker", "start") == f"the broker is running already, as process {pid}\n"
    assert bench.build(bench.machine("ok")).status == 0
    assert bench.broker_pid() == pid


@pytest.mark.parametrize("now", [(), ("--now",)], ids=["gracefully", "now"])
def test_a_broker_is_stopped(bench: Bench, now: tuple[str, ...]) -> None:
    """Whether it has builds or not; where none is, that is fine, too."""
    assert bench.build(bench.machine("ok")).status == 0
    pid = bench.broker_pid()
    assert pid is not None
    with open(os.pidfd_open(pid), "rb", 0) as process:
        assert said(bench, "broker", "stop", *now) == f"the broker (process {pid}) has ended\n"
        assert select.select([process], [], [], 0)[0] == [process]
    assert bench.broker_pid() is None
    assert said(bench, "broker", "stop", *now) == "no broker is running\n"


@contextmanager
def waiting_build(bench: Bench) -> Iterator[Callable[[], int]]:
    """A build that was accepted and waits for a slot; yields what gives it one and waits for its end."""
    machine = bench.machine("ok", jobs=1)
    assert bench.build(machine).status == 0
    data = bench.preamble([machine]) + bench.request() + bench.job()
    with bench.take_slot(machine) as slot, bench.start(data) as hook:
        assert hook.stderr is not None
        while hook.stderr.readline() != b"# accept\n":
            pass

        def finish() -> int:
            slot.close()
            assert hook.stderr is not None
            hook.stderr.read()
            return hook.wait()

        try:
            yield finish
        finally:
            hook.kill()


def stopping(bench: Bench) -> subprocess.Popen[str]:
    """The command that waits for that build."""
    return subprocess.Popen(
        [NIX_FERRY, "broker", "stop"],
        env=bench.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_builds_end_before_the_broker_does(bench: Bench) -> None:
    """The command says for what it waits; meanwhile there is room for another broker."""
    with waiting_build(bench) as finish:
        pid = bench.broker_pid()
        with stopping(bench) as stop:
            assert stop.stdout is not None
            assert stop.stdout.readline() == (
                f"the broker (process {pid}) takes no more and ends after 1 build; waiting for that\n"
            )
            assert bench.broker_pid() is None
            assert stop.poll() is None
            assert finish() == 0
            assert stop.stdout.read() == f"the broker (process {pid}) has ended\n"
    assert stop.returncode == 0


def test_who_does_not_want_to_wait_leaves_the_broker_to_its_builds(bench: Bench) -> None:
    """Ctrl-C ends the command, not the build."""
    with waiting_build(bench) as finish:
        with stopping(bench) as stop:
            assert stop.stdout is not None
            assert stop.stderr is not None
            assert stop.stdout.readline()
            stop.send_signal(signal.SIGINT)
            assert stop.stderr.read() == "error: not waiting any longer; the broker ends by itself\n"
        assert stop.returncode == 1
        assert finish() == 0


def test_a_broker_is_restarted(bench: Bench) -> None:
    """Another process serves the next build."""
    said(bench, "broker", "start")
    before = bench.broker_pid()
    assert said(bench, "broker", "restart").splitlines() == [
        f"the broker (process {before}) has ended",
        f"the broker is running, as process {bench.broker_pid()}",
    ]
    assert bench.broker_pid() not in (None, before)


def test_a_broker_that_hangs_can_be_ended(bench: Bench) -> None:
    """It answers no question; the kernel tells who listens."""
    said(bench, "broker", "start")
    pid = bench.broker_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    stop = subprocess.Popen([NIX_FERRY, "broker", "stop", "--now"], env=bench.environ(), stdout=subprocess.PIPE)
    with stop:
        assert stop.communicate(timeout=60)[0] == f"the broker (process {pid}) has ended\n".encode()


def test_a_broker_that_cannot_begin_is_an_error(bench: Bench) -> None:
    """Its log would be somewhere else."""
    directory = bench.hook_state / "nix-ferry"
    directory.mkdir(0o700)
    (directory / "broker.log").symlink_to("elsewhere")
    done = ferry(bench, "broker", "start")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the broker (process ")
    assert done.stderr.endswith(") ended at once; see 'nix-ferry log'\n")


def test_uninstall_has_the_broker_end(bench: Bench) -> None:
    """Nobody would talk to it any more; the connections that it keeps end with it."""
    said(bench, "broker", "start")
    pid = bench.broker_pid()
    told = end_broker(bench.environ())
    assert told == f"the broker (process {pid}) ends, and with it the connections of ssh that it shares"
    wait_until(lambda: bench.broker_pid() is None, "the end of the broker")
    assert end_broker(bench.environ()) == "no broker is running"


def test_without_a_broker_the_commands_say_so(bench: Bench) -> None:
    """That is no error, and JSON has the same form."""
    assert said(bench, "status").startswith("no broker is running")
    assert json.loads(said(bench, "status", "--json"))["machines"] == []
    assert said(bench, "metrics").splitlines()[-1] == "nix_ferry_up 0"
    assert bench.broker_pid() is None


def test_status_and_metrics_show_what_was_built(bench: Bench) -> None:
    """In plain columns, where nobody looks at a terminal."""
    machine = bench.machine("ok")
    assert bench.build(machine).status == 0
    name = machine.partition(" ")[0]
    shown = said(bench, "status").splitlines()
    assert shown[0].endswith("; no build is under way")
    assert shown[2].split() == [
        "MACHINE",
        "STATE",
        "SLOTS",
        "LINKS",
        "COPIES",
        "BUILT",
        "FAILED",
        "LOST",
    ]
    called, state, *rest = re.split(" {2,}", shown[3])
    assert (called, rest) == ("localhost", ["0/2", "0/1", "-", "1", "0", "0"])
    assert re.fullmatch(r"answered [0-9.]+s ago", state)
    assert f'nix_ferry_builds_total{{machine="{name}",outcome="built"}} 1' in said(bench, "metrics").splitlines()
    assert said(bench, "history").splitlines()[1].split()[1:4] == ["tiny", "localhost", "built"]
