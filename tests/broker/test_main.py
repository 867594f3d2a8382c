"""The executable of the broker: when it says that it listens, and what it has of who started it."""

import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import REPOSITORY
from tests.broker.running import (
    READY,
    TIMEOUT_S,
    Running,
    Shim,
    quick,
)
from tests.lab.container import wait_until
from tests.standing import broker_lock, broker_socket, standing


@pytest.fixture
def execute(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], int]]]:
    """Starts real brokers as the shim does; returns process and the end of the pipe to hear from it."""
    made: list[tuple[subprocess.Popen[bytes], int]] = []

    def run(*prefix: str) -> tuple[subprocess.Popen[bytes], int]:
        ready, write_fd = os.pipe()
        command = [*prefix, sys.executable, "-m", "hook.broker.main", str(tmp_path), str(write_fd), standing()]
        made.append((subprocess.Popen(command, pass_fds=[write_fd], cwd=REPOSITORY), ready))
        os.close(write_fd)
        return made[-1]

    yield run
    for process, ready in made:
        process.kill()
        process.wait()
        os.close(ready)


def test_the_executable_says_when_somebody_listens(
    execute: Callable[[], tuple[subprocess.Popen[bytes], int]], tmp_path: Path
) -> None:
    """Itself or another one; the second has nothing to do."""
    _, ready = execute()
    assert os.read(ready, 2) == b"1"
    with Shim(str(broker_socket(tmp_path))) as shim:
        shim.greet()
        assert shim.socket.recv(100) == READY
    second, ready = execute()
    assert os.read(ready, 2) == b"1"
    assert second.wait(TIMEOUT_S) == 0
    assert "listening" in (tmp_path / "broker.log").read_text()


def test_the_executable_may_open_as_many_files_as_there_can_be(
    execute: Callable[[], tuple[subprocess.Popen[bytes], int]],
) -> None:
    """Two hundred builds need thousands; Nix's own limit is meant for one hook a build."""
    process, ready = execute()
    assert os.read(ready, 1) == b"1"
    soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard


ODD = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
open("/proc/self/oom_score_adj", "w").write("321")
open("/proc/self/coredump_filter", "w").write("0x1")
os.umask(0o077)
os.execvp(sys.argv[1], sys.argv[1:])
"""
LIMITED = 'ulimit -Sn 300; ulimit -Sf 1000000; ulimit -St 3600; exec "$@"'
NONE = "0" * 16
"""A set of signals."""

ODDLY = ("nice", "-n", "7", "ionice", "-c", "3", "taskset", "1", "chrt", "-b", "0", "setarch", "-R")


def attributes(pid: int) -> dict[str, object]:
    """What a process has of whoever started it, unless it resets that."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "nice": os.getpriority(os.PRIO_PROCESS, pid),
        "policy": os.sched_getscheduler(pid),
        "processors": os.sched_getaffinity(pid),
        "disks": disks(pid),
        "umask": status["Umask"],
        "blocked": status["SigBlk"],
        # Python itself ignores those of broken pipes and of files that are too large, and a C library that starts a
        # program may have it ignore the two that are its own (32 and 33), which nobody can change through it.
        "ignored": int(status["SigIgn"], 16)
        & ~(1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1 | 1 << 32 - 1 | 1 << 33 - 1),
        "memory": Path(f"/proc/{pid}/oom_score_adj").read_text(),
        "dumped": Path(f"/proc/{pid}/coredump_filter").read_text(),
        "personality": Path(f"/proc/{pid}/personality").read_text(),
    }


def disks(pid: int) -> bytes:
    return subprocess.run(["ionice", "-p", str(pid)], capture_output=True, check=True).stdout


def test_the_executable_has_nothing_of_who_started_it(
    execute: Callable[..., tuple[subprocess.Popen[bytes], int]],
) -> None:
    """All later builds would have it."""
    process, ready = execute(*ODDLY, "sh", "-c", LIMITED, "sh", sys.executable, "-c", ODD)
    assert os.read(ready, 1) == b"1"
    # While a thread starts another one, all signals are blocked.
    wait_until(lambda: attributes(process.pid)["blocked"] == NONE, "signals that are not blocked")
    assert attributes(process.pid) | {"blocked": NONE} == {
        "nice": 0,
        "policy": os.SCHED_OTHER,
        "processors": os.sched_getaffinity(1),
        "disks": disks(1),
        "umask": "0022",
        "blocked": NONE,
        "ignored": 0,
        "memory": "0\n",
        "dumped": "00000033\n",
        "personality": "00000000\n",
    }
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
        soft, hard = resource.prlimit(process.pid, limit)
        assert soft == hard


def test_the_executable_does_not_start_where_it_was_not_to_be(
    execute: Callable[..., tuple[subprocess.Popen[bytes], int]], tmp_path: Path
) -> None:
    """It could not be brought there; whoever it is for would find it useless."""
    process, ready = execute("unshare", "--net")
    assert os.read(ready, 1) == b""
    assert process.wait(TIMEOUT_S) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_killed_brokers_have_left_is_removed(
    tmp_path: Path,
) -> None:
    """Every unit with namespaces of its own has other ones each time."""
    for name in ("0000dead", "0000beef"):
        (tmp_path / f"{name}.lock").touch()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / f"{name}.sock"))
    with open(tmp_path / "0000beef.lock", "wb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        started = Running(tmp_path, quick).start()
        started.wait_for_ticks()
        kept = {"0000beef.lock", "0000beef.sock", broker_lock(tmp_path).name, broker_socket(tmp_path).name}
        assert {path.name for path in tmp_path.iterdir()} == kept
        started.close()
    assert {path.name for path in tmp_path.iterdir()} == {"0000beef.lock", "0000beef.sock"}


def test_the_hook_that_started_a_broker_may_be_gone(tmp_path: Path) -> None:
    """Killed with its build a moment later; others are waiting."""
    ready, write_fd = os.pipe()
    os.close(ready)
    command = [sys.executable, "-m", "hook.broker.main", str(tmp_path), str(write_fd), standing()]
    with subprocess.Popen(command, pass_fds=[write_fd], cwd=REPOSITORY) as process:
        os.close(write_fd)
        while "listening" not in _text(tmp_path / "broker.log"):
            assert process.poll() is None
        with Shim(str(broker_socket(tmp_path))) as shim:
            shim.greet()
            assert shim.socket.recv(100) == READY
        process.kill()


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


MEMORY = """
import sys
from hook.broker.attributes import return_large_blocks

def resident_kib():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmRSS:")]
    return int(line.split()[1])

if sys.argv[1] == "broker":
    return_large_blocks()
b"x" * (24 << 20)
before = resident_kib()
b"x" * (16 << 20)
print(resident_kib() - before)
"""


def test_memory_for_what_is_large_goes_back_to_the_system() -> None:
    """A block that was freed once has glibc keep as much for later, in each of its arenas."""

    def kept_kib(who: str) -> int:
        command = [sys.executable, "-c", MEMORY, who]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert kept_kib("broker") < 4 << 10
