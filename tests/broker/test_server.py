"""The broker's process: who is let in, what is survived, and how one broker follows another.

The broker runs in a thread of the test, which speaks for the shims; sessions are functions of the test.  Nothing waits
for a time: whatever the broker is to do by itself is due at once.
"""

import fcntl
import itertools
import os
import queue
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from hook.broker import server as broker_module
from hook.broker.identity import IDENTITY
from hook.broker.server import Broker, check_peer
from hook.front.caller import Caller, Word
from tests import REPOSITORY
from tests.lab.container import wait_until
from tests.leaks import descriptors
from tests.standing import broker_lock, broker_socket, standing

NOBODY = 65534
TIMEOUT_S = 30
SOON_S = 0.01
LEAK_BYTES = 512
"""The least that one hook could leave behind: an object and what refers to it."""

READY = b"h\0\0\0\0"
SERVED = b"k\4\0\0\0keptx\1\0\0\0\7"
"""What a quick session says."""

REPORT = b"all is well"
TOLD = b"\x0b\0\0\0all is well"

Serve = Callable[[Caller], int]


class Shim:
    """The other end of a conversation, with pipes as Nix would make them."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def greet(self, identity: str = IDENTITY, *environ: str, form: str = "2") -> None:
        words = [identity, form, "3", str(os.getpid()), *environ]
        self.send_words("".join(f"{word}\0" for word in words).encode())

    def send_words(self, data: bytes) -> None:
        self.socket.sendall(struct.pack("<8sI", b"nixferry", len(data)) + data)

    def hand_over(self, count: int = 3) -> None:
        with open(os.devnull, "rb") as null:
            socket.send_fds(self.socket, [b"\0"], [null.fileno()] * count)

    def rest(self) -> bytes:
        """Everything said until the broker hangs up."""
        data = b""
        try:
            while piece := self.socket.recv(100):
                data += piece
        except ConnectionResetError:
            pass
        return data

    def converse(self, *environ: str) -> bytes:
        """A whole conversation; returns what was said after the first word."""
        self.greet(IDENTITY, *environ)
        self.begin()
        return self.rest()

    def begin(self) -> None:
        """Hear that we are served, and hand everything over."""
        assert self.socket.recv(100) == READY
        self.hand_over()


class Running:
    """A broker at work; `ticks` counts how often it tidied up."""

    def __init__(self, directory: Path, serve: Serve, idle_exit_s: float = 3600.0) -> None:
        self.directory = directory
        self.ticks = threading.Semaphore(0)
        self.tidy: Callable[[], object] = lambda: None
        self.worked: list[str] = []
        self.broker = Broker(
            str(directory),
            standing(),
            serve,
            self._tick,
            lambda: REPORT,
            idle_exit_s=idle_exit_s,
            housekeeping_s=SOON_S,
            worked=self.worked.append,
        )
        assert self.broker.listen()
        self._thread = threading.Thread(target=self.broker.run)

    def start(self) -> Self:
        self._thread.start()
        return self

    def shim(self) -> Shim:
        return Shim(str(broker_socket(self.directory)))

    def join(self) -> None:
        """Wait for its end, which must come by itself."""
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.broker.retire()
        if self._thread.ident is None:
            self.start()
        self.join()

    def wait_for_ticks(self) -> None:
        """Until it has tidied up three times from now on."""
        while self.ticks.acquire(blocking=False):
            pass
        for _ in range(3):
            assert self.ticks.acquire(timeout=TIMEOUT_S)

    def _tick(self) -> None:
        self.ticks.release()
        self.tidy()


class Gate:
    """A session that goes on when the test says so."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def serve(self, caller: Caller) -> int:
        self.entered.release()
        assert self.open.wait(TIMEOUT_S)
        return 5


def quick(caller: Caller) -> int:
    """A session that says something of every kind of length."""
    caller.tell(Word.KEEP, b"kept")
    return int(caller.environ.get("STATUS", "7"))


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts brokers, and ends them with the test."""
    made: list[Running] = []

    def start(serve: Serve = quick, **options: float) -> Running:
        made.append(Running(tmp_path, serve, **options))
        return made[-1].start()

    yield start
    for running in made:
        running.close()


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> "queue.Queue[str]":
    """Lines of the broker's log."""
    lines: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(broker_module, "log", lines.put)
    return lines


# Conversations


def test_a_hook_is_served_with_what_it_brought(started: Callable[..., Running]) -> None:
    """The caller is the hook: its argument, parent, environment and descriptors."""
    callers = []

    def serve(caller: Caller) -> int:
        assert caller.input_fd == caller.hangup_fd
        assert caller.rest_fd is not None
        for fd in (caller.rest_fd, caller.output_fd, caller.build_log_fd):
            assert os.readlink(f"/proc/self/fd/{fd}") == os.devnull
            assert not os.get_inheritable(fd)
        callers.append(caller)
        return quick(caller)

    with started(serve).shim() as shim:
        assert shim.converse("A=1=2", "EMPTY=", "STATUS=200") == b"k\4\0\0\0keptx\1\0\0\0\xc8"
    (caller,) = callers
    assert (caller.verbosity, caller.parent_pid, caller.root) == (3, os.getpid(), f"/proc/{os.getpid()}/root")
    assert caller.environ == {"A": "1=2", "EMPTY": "", "STATUS": "200"}


@pytest.mark.parametrize("successor", [Word.ALONE, Word.STOCK])
def test_a_conversation_can_be_left_to_somebody_else(started: Callable[..., Running], successor: Word) -> None:
    """In the place of a status, when Nix's pipes are closed here."""
    open_fds = []

    def serve(caller: Caller) -> int:
        open_fds.extend([caller.output_fd, caller.build_log_fd])
        caller.successor = successor
        return 0

    with started(serve).shim() as shim:
        assert shim.converse() == successor.value + bytes(4)
        for fd in open_fds:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)


def test_hooks_do_not_wait_for_each_other(started: Callable[..., Running]) -> None:
    """Nix asks about the next build while others are under way."""
    gate = Gate()
    running = started(lambda caller: gate.serve(caller) if "SLOW" in caller.environ else quick(caller))
    with running.shim() as slow:
        slow.greet(IDENTITY, "SLOW=1")
        slow.hand_over()
        assert gate.entered.acquire(timeout=TIMEOUT_S)
        with running.shim() as shim:
            assert shim.converse() == SERVED
        gate.open.set()
        assert slow.rest() == READY + b"x\1\0\0\0\x05"


def test_a_hook_that_is_gone_is_seen_by_its_session(started: Callable[..., Running]) -> None:
    """Nix kills hooks without a warning."""
    gone = threading.Event()

    def serve(caller: Caller) -> int:
        try:
            caller.pause(TIMEOUT_S)
        finally:
            gone.set()
        return 0

    with started(serve).shim() as shim:
        shim.greet()
        assert shim.socket.recv(100) == READY
        shim.hand_over()
    assert gone.wait(TIMEOUT_S)


def test_a_session_that_fails_is_logged_and_says_no_status(
    started: Callable[..., Running], logged: "queue.Queue[str]"
) -> None:
    """Without one the shim has the stock hook give Nix its answer."""
    before = descriptors()

    def serve(caller: Caller) -> int:
        caller.tell(Word.KEEP, b"")
        raise ZeroDivisionError("surprise")

    running = started(serve)
    with running.shim() as shim:
        assert shim.converse() == b"k\0\0\0\0"
    assert "ZeroDivisionError: surprise" in logged.get(timeout=TIMEOUT_S)
    running.close()
    assert descriptors().items() <= before.items()


# Questions


def ask(running: Running, question: bytes) -> Shim:
    """Somebody who has asked, and has not heard anything yet."""
    asking = running.shim()
    asking.socket.sendall(struct.pack("<8sI", b"ferryask", len(question)) + question)
    return asking


def test_who_asks_is_told_how_things_are(started: Callable[..., Running]) -> None:
    """Then the broker hangs up."""
    running = started()
    with ask(running, b"status") as asking:
        assert asking.rest() == TOLD


def test_who_has_seen_a_machine_work_says_so(started: Callable[..., Running]) -> None:
    """An address has no blanks, but bytes that are no text."""
    running = started()
    with ask(running, b"worked ssh-ng://b\xff") as asking:
        assert asking.rest() == TOLD
    assert running.worked == ["ssh-ng://b\udcff"]


def test_being_asked_is_no_work(started: Callable[..., Running]) -> None:
    """Somebody who watches must not keep alive what there is to watch."""
    running = started(idle_exit_s=3600.0)
    with running.shim() as shim:
        assert shim.converse() == SERVED
    used = running.broker.last_used
    with ask(running, b"status") as asking:
        assert asking.rest() == TOLD
    assert running.broker.last_used == used


def test_a_broker_that_is_asked_to_leave_serves_its_hooks_first(
    started: Callable[..., Running], logged: "queue.Queue[str]"
) -> None:
    """Who asked hears the end of it; meanwhile another broker can begin."""
    gate = Gate()
    running = started(gate.serve)
    with running.shim() as shim:
        shim.greet()
        shim.hand_over()
        assert gate.entered.acquire(timeout=TIMEOUT_S)
        with ask(running, b"retire") as asking:
            assert asking.socket.recv(len(TOLD)) == TOLD
            assert logged.get(timeout=TIMEOUT_S) == "making room: we were asked to"
            with started().shim() as other:
                assert other.converse() == SERVED
            asking.socket.setblocking(False)
            with pytest.raises(BlockingIOError):
                asking.socket.recv(1)
            asking.socket.settimeout(TIMEOUT_S)
            gate.open.set()
            assert shim.rest() == READY + b"x\1\0\0\0\x05"
            running.join()
            running.broker.close()
            assert asking.rest() == b""


@pytest.mark.parametrize("question", [b"", b"weather", b"status" * 100], ids=["empty", "unknown", "long"])
def test_a_strange_question_gets_no_answer(
    started: Callable[..., Running], logged: "queue.Queue[str]", question: bytes
) -> None:
    """It is logged; the next one is answered."""
    running = started()
    with ask(running, question) as asking:
        assert asking.rest() == b""
    assert "a hook was not served: " in logged.get(timeout=TIMEOUT_S)
    with ask(running, b"status") as asking:
        assert asking.rest() == TOLD


# Who is let in


@pytest.mark.parametrize("user", [NOBODY, os.geteuid()])
def test_another_user_is_recognised(user: int) -> None:
    """The kernel says who connected, whatever they say themselves."""
    own = os.geteuid()
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        # In no directory, which could be closed to that user.
        server.bind(f"\0nix-ferry-test-{os.getpid()}")
        server.listen()
        os.seteuid(user)
        try:
            client.connect(server.getsockname())
        finally:
            os.seteuid(own)
        with server.accept()[0] as connection:
            if user == own:
                assert check_peer(connection) == os.getpid()
            else:
                with pytest.raises(PermissionError, match=f"user {NOBODY}"):
                    check_peer(connection)


def test_who_only_looks_leaves_no_line(started: Callable[..., Running], logged: "queue.Queue[str]") -> None:
    """Whether a broker listens is asked by every doctor."""
    running = started()
    with running.shim() as shim:
        shim.socket.shutdown(socket.SHUT_WR)
        assert shim.rest() == b""
    with running.shim() as shim:
        shim.socket.sendall(b"nixfairy" + bytes(4))
        assert shim.rest() == b""
    assert "it is no nix-ferry-hook" in logged.get(timeout=TIMEOUT_S)
    assert logged.empty()


def test_another_user_is_not_served(
    started: Callable[..., Running], logged: "queue.Queue[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should the directory ever be open to others."""
    running = started()
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    with running.shim() as shim:
        assert shim.rest() == b""
    assert f"it belongs to user {os.getuid()}" in logged.get(timeout=TIMEOUT_S)


GREETINGS = {
    "short header": b"nixferry\x05",
    "wrong magic": b"nixfairy" + bytes(4),
    "huge": b"nixferry\xff\xff\xff\xff",
    "short": b"nixferry\x50\0\0\0" + b"\0002\0003\0001\0",
    "no words": b"nixferry\0\0\0\0",
    "two words": b"nixferry\x05\0\0\0" + b"\0002\0003",
    "no number": b"nixferry\x07\0\0\0" + b"\0002\0003\0x\0",
    "another format": b"nixferry\x07\0\0\0" + b"\0003\0003\0001\0",
}


@pytest.mark.parametrize("greeting", GREETINGS.values(), ids=GREETINGS)
def test_a_malformed_greeting_is_logged_and_hurts_nobody(
    started: Callable[..., Running], logged: "queue.Queue[str]", greeting: bytes
) -> None:
    """Nothing is said, so a shim would go elsewhere; the next hook is served."""
    before = descriptors()
    running = started()
    with running.shim() as shim:
        shim.socket.sendall(greeting)
        shim.socket.shutdown(socket.SHUT_WR)
        assert shim.rest() == b""
    assert "a hook was not served: " in logged.get(timeout=TIMEOUT_S)
    with running.shim() as shim:
        assert shim.converse() == SERVED
    running.close()
    assert descriptors().items() <= before.items()


@pytest.mark.parametrize("count", [0, 2, 4, 5, 200])
def test_a_wrong_number_of_descriptors_leaks_none(
    started: Callable[..., Running], logged: "queue.Queue[str]", count: int
) -> None:
    """Those that came are closed; the next hook is served."""
    before = descriptors()
    running = started()
    with running.shim() as shim:
        shim.greet()
        assert shim.socket.recv(100) == READY
        shim.hand_over(count)
        assert shim.rest() == b""
    assert "descriptors" in logged.get(timeout=TIMEOUT_S)
    with running.shim() as shim:
        assert shim.converse() == SERVED
    running.close()
    assert descriptors().items() <= before.items()


ELSEWHERE = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.sendall(b"nixferry" + bytes(4))
connection.shutdown(socket.SHUT_WR)
assert connection.recv(1) == b""
"""


def test_who_stands_elsewhere_is_not_served(
    started: Callable[..., Running], logged: "queue.Queue[str]", tmp_path: Path
) -> None:
    """It sees another network: what is built for it there is not for us to build here."""
    running = started()
    command = ["unshare", "--net", sys.executable, "-c", ELSEWHERE, str(broker_socket(tmp_path))]
    subprocess.run(command, check=True)
    assert "it stands elsewhere" in logged.get(timeout=TIMEOUT_S)
    with running.shim() as shim:
        assert shim.converse() == SERVED


UNSEEING = """
import sys
from hook.broker.server import Broker
from hook.broker.standing import standing_of
broker = Broker(sys.argv[1], standing_of(0), lambda caller: 0, lambda: None, bytes)
assert broker.listen()
print(broker._path, flush=True)
broker.run()
"""


def test_who_cannot_be_seen_is_not_served(tmp_path: Path) -> None:
    """Outside of the broker's pid namespace, from where the kernel names no process."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*unshare, sys.executable, "-c", UNSEEING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            with Shim(process.stdout.readline().rstrip("\n")) as shim:
                shim.greet()
                assert shim.rest() == b""
            assert process.stderr is not None
            assert "it stands elsewhere" in process.stderr.readline()
        finally:
            process.kill()


# What is survived


def test_without_descriptors_hooks_wait_for_one(started: Callable[..., Running], logged: "queue.Queue[str]") -> None:
    """A broker that ended would take all builds along."""
    running = started()
    # Only at its beginning it opens files by itself: then the descriptor that is free here would not be the only one.
    running.wait_for_ticks()
    address = str(broker_socket(running.directory))
    with socket.socket(socket.AF_UNIX) as connection:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(connection.fileno())
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        try:
            connection.connect(address)
            assert "cannot accept a hook: [Errno 24]" in logged.get(timeout=TIMEOUT_S)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        connection.settimeout(TIMEOUT_S)
        shim = Shim.__new__(Shim)
        shim.socket = connection
        assert shim.converse() == SERVED


def test_without_a_thread_a_hook_is_turned_away(
    started: Callable[..., Running], logged: "queue.Queue[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can do without us; we cannot do without the others."""
    running = started()
    # It has a thread of its own by now.
    running.wait_for_ticks()

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with running.shim() as shim:
            assert shim.rest() == b""
    assert "can't start new thread" in logged.get(timeout=TIMEOUT_S)
    with running.shim() as shim:
        assert shim.converse() == SERVED


def test_what_fails_while_tidying_up_is_logged(started: Callable[..., Running], logged: "queue.Queue[str]") -> None:
    """No space for the next log, say."""
    running = started()

    def fail() -> None:
        raise OSError("disk full")

    running.tidy = fail
    assert "disk full" in logged.get(timeout=TIMEOUT_S)
    assert "disk full" in logged.get(timeout=TIMEOUT_S)
    running.tidy = lambda: None
    with running.shim() as shim:
        assert shim.converse() == SERVED


def test_many_hooks_leave_nothing_behind(started: Callable[..., Running]) -> None:
    """No descriptor, no thread and no memory, however many come."""
    running = started()
    running.wait_for_ticks()
    before, threads = descriptors(), set(threading.enumerate())
    resident = []
    for _ in range(4):
        for _ in range(500):
            with running.shim() as shim:
                assert shim.converse() == SERVED
        # A session has a little left to do after its last word.
        for thread in set(threading.enumerate()) - threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
    assert descriptors().items() <= before.items()
    # What is lost is lost every time; memory that is only kept for later is obtained once.
    assert min(after - before for before, after in itertools.pairwise(resident)) < 500 * LEAK_BYTES
    running.close()
    assert descriptors().items() < before.items()


# One after another


def test_there_is_one_broker(started: Callable[..., Running], tmp_path: Path) -> None:
    """Two would not know of each other's builds."""
    before = descriptors()
    running = started()
    assert not Broker(str(tmp_path), standing(), quick, lambda: None, lambda: REPORT).listen()
    with running.shim() as shim:
        assert shim.converse() == SERVED
    running.close()
    assert descriptors().items() <= before.items()


def test_the_socket_of_a_killed_broker_is_replaced(started: Callable[..., Running], tmp_path: Path) -> None:
    """The kernel frees the lock; the file stays."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(broker_socket(tmp_path)))
    with started().shim() as shim:
        assert shim.converse() == SERVED


@pytest.fixture
def leaving(tmp_path: Path) -> Iterator[int]:
    """The lock of a broker that has removed its socket, and not let go yet."""
    with open(broker_lock(tmp_path), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def test_a_broker_that_is_leaving_is_waited_for(leaving: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Giving up at once would leave the hook without a broker."""
    monkeypatch.setattr("time.sleep", lambda seconds: fcntl.flock(leaving, fcntl.LOCK_UN))
    running = Running(tmp_path, quick)
    running.close()


def test_who_removes_what_a_dead_broker_has_left_is_not_taken_for_a_live_one(
    leaving: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The housekeeper of another namespace's broker: the hook would look in vain for whoever listens."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(broker_socket(tmp_path)))
    monkeypatch.setattr("time.sleep", lambda seconds: fcntl.flock(leaving, fcntl.LOCK_UN))
    running = Running(tmp_path, quick)
    running.close()


def test_a_broker_that_does_not_leave_is_not_waited_for_longer(
    leaving: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits for ever."""
    monkeypatch.setattr(broker_module, "TAKEOVER_S", 0.05)
    assert not Broker(str(tmp_path), standing(), quick, lambda: None, lambda: REPORT).listen()


def test_a_hook_that_does_not_know_what_is_installed_is_served(started: Callable[..., Running]) -> None:
    """Nothing is, any more; what runs is all that is left of it."""
    with started().shim() as shim:
        shim.greet("")
        shim.begin()
        assert shim.rest() == SERVED


def test_a_hook_of_another_build_gets_room_for_its_broker(
    started: Callable[..., Running], logged: "queue.Queue[str]"
) -> None:
    """The session under way goes on to its end; who comes now finds a broker of their own."""
    gate = Gate()
    running = started(gate.serve)
    with running.shim() as shim:
        shim.greet()
        shim.hand_over()
        assert gate.entered.acquire(timeout=TIMEOUT_S)
        with running.shim() as other:
            other.greet("99.9-5f", form="1000")
            assert other.rest() == b""
        assert logged.get(timeout=TIMEOUT_S) == "making room for build '99.9-5f'"
        successor = started()
        with successor.shim() as other:
            assert other.converse() == SERVED
        gate.open.set()
        assert shim.rest() == READY + b"x\1\0\0\0\x05"
    running.join()
    with successor.shim() as other:
        assert other.converse() == SERVED


def test_who_has_connected_before_a_retirement_is_served(tmp_path: Path) -> None:
    """The hook could not know."""
    running = Running(tmp_path, quick)
    shims = [running.shim() for _ in range(5)]
    running.broker.retire()
    running.start()
    for shim in shims:
        with shim:
            assert shim.converse() == SERVED
    running.join()
    with pytest.raises(FileNotFoundError):
        running.shim()


def test_a_broker_without_work_ends(started: Callable[..., Running], tmp_path: Path) -> None:
    """And leaves nothing that the next one could trip over."""
    started(idle_exit_s=0).join()
    assert not broker_socket(tmp_path).exists()
    with started().shim() as shim:
        assert shim.converse() == SERVED


def test_a_broker_with_a_long_build_stays(started: Callable[..., Running]) -> None:
    """Idle is who has no session, not who has heard nothing new."""
    gate = Gate()
    running = started(gate.serve)
    with running.shim() as shim:
        shim.greet()
        shim.hand_over()
        assert gate.entered.acquire(timeout=TIMEOUT_S)
        running.broker.idle_exit_s = 0
        running.wait_for_ticks()
        with running.shim() as other:
            other.greet()
            assert other.socket.recv(100) == READY
        gate.open.set()
        assert shim.rest() == READY + b"x\1\0\0\0\x05"
    running.join()


def test_a_broker_keeps_house_under_load(started: Callable[..., Running]) -> None:
    """Warm connections must not stay for ever because hooks keep coming."""
    running = started()
    while not running.ticks.acquire(blocking=False):
        with running.shim() as shim:
            assert shim.converse() == SERVED


def test_a_broker_that_nobody_can_find_ends(started: Callable[..., Running], tmp_path: Path) -> None:
    """Somebody has cleaned up."""
    running = started()
    broker_socket(tmp_path).unlink()
    running.join()


def test_a_broker_leaves_the_socket_of_another_one_alone(started: Callable[..., Running], tmp_path: Path) -> None:
    """Somebody has removed the whole directory, and a hook has started another broker."""
    running = started()
    running.wait_for_ticks()
    # In this order: without its socket it ends, and removes its lock.
    broker_lock(tmp_path).unlink()
    broker_socket(tmp_path).unlink()
    successor = started()
    running.join()
    with successor.shim() as shim:
        assert shim.converse() == SERVED


# The executable


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
