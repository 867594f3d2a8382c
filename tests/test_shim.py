"""The executable that Nix runs, against a scripted broker: whatever becomes of the broker, Nix gets its answer.

Every test takes the shim as it is installed and one built with sanitizers.  The programs it starts are scripts in the
same directory, except where the real broker is asked for.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

import hook
from tests.standing import broker_socket

REPOSITORY = Path(__file__).parent.parent
INSTALLED = Path(sys.executable).parent
TIMEOUT_S = 60
NOBODY = 65534

STANDALONE = """#!/bin/sh
printf '%s ' "$0" "$@" > "$STATE/alone.argv"
echo "alone" >&2
echo "log" >&4
cat > "$STATE/alone.stdin"
exit 9
"""

BROKER = f"""#!{sys.executable}
import json, os, socket, sys
directory, ready, standing = sys.argv[1:]
state = os.path.dirname(directory)
links = [f"/proc/self/fd/{{fd}}" for fd in os.listdir("/proc/self/fd")]
fds = {{link[14:]: os.readlink(link) for link in links if os.path.lexists(link)}}
facts = {{"fds": fds, "pid": os.getpid(), "session": os.getsid(0), "group": os.getpgrp(), "cwd": os.getcwd()}}
facts["environ"] = dict(os.environ)
server = socket.socket(socket.AF_UNIX)
server.bind(f"{{directory}}/{{standing}}.sock")
server.listen()
os.write(int(ready), b"1")
connection, _ = server.accept()
connection.recv(1 << 20)
connection.sendall(b"a")
for fd in socket.recv_fds(connection, 1, 3)[1]:
    os.close(fd)
connection.sendall(b"x\\x07")
with open(state + "/broker.json", "w") as file:
    json.dump(facts, file)
os.read(os.open(state + "/life", os.O_RDONLY), 1)
"""


class Bin:
    """A directory of programs with a copy of the shim, and a state directory for them."""

    def __init__(self, root: Path, shim: Path) -> None:
        self.path = root / "bin"
        self.path.mkdir()
        self.state = root / "state"
        self.state.mkdir()
        self.directory = self.state / "nix-ferry"
        shutil.copy2(shim, self.path / "nix-ferry-hook")
        self.script("nix-ferry-standalone", STANDALONE)

    def script(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)
        (self.path / name).chmod(0o755)

    def real(self, name: str) -> None:
        (self.path / name).symlink_to(INSTALLED / name)


class Hook:
    """The shim with the descriptors that Nix gives it, and one that leaked; the test is Nix."""

    def __init__(
        self, programs: Bin, argument: str = "3", environ: Mapping[str, str] | None = None, redirect: str = ""
    ):
        log_read, log_write = os.pipe()
        self.log = log_read
        # Out of the way of the numbers to be given away.
        leaked = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (log_read, log_write)]
        command = f'exec "$0" "$@" 1>&2 4>&{leaked[1]} 5<&{leaked[0]} {redirect}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, programs.path / "nix-ferry-hook", argument],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                "PATH": os.environ["PATH"],
                "NIX_STATE_DIR": str(programs.state),
                "STATE": str(programs.state),
                **(environ or {}),
            },
            pass_fds=leaked,
        )
        for fd in (*leaked, log_write):
            os.close(fd)
        assert self.process.stdin is not None
        self.stdin = self.process.stdin

    def send(self, data: bytes) -> None:
        self.stdin.write(data)
        self.stdin.flush()

    def end(self, data: bytes = b"") -> tuple[int, list[str]]:
        """Send the last bytes, and wait for the status and everything said; both pipes must reach their end."""
        _, said = self.process.communicate(data, TIMEOUT_S)
        return self.process.returncode, said.decode().splitlines()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stderr):
            if pipe is not None:
                pipe.close()
        os.close(self.log)


class FakeBroker:
    """Listens where the shim looks for a broker; the test decides what it says."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(0o700, exist_ok=True)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(broker_socket(directory)))
        self._socket.listen()
        self._socket.settimeout(TIMEOUT_S)
        self._conversations: list[Conversation] = []

    def accept(self) -> "Conversation":
        """A hook's greeting; nothing is said to it yet."""
        connection, _ = self._socket.accept()
        connection.settimeout(TIMEOUT_S)
        self._conversations.append(Conversation(connection))
        return self._conversations[-1]

    def serve(self) -> "Conversation":
        """A hook that has given us everything."""
        conversation = self.accept()
        conversation.begin()
        return conversation

    def was_asked(self) -> bool:
        self._socket.setblocking(False)
        try:
            self._socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()
        for conversation in self._conversations:
            conversation.die()


class Conversation:
    """One shim's greeting, and what the broker says to it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.fds: list[int] = []
        magic, length = struct.unpack("<8sI", connection.recv(12))
        assert magic == b"nixferry"
        data = b""
        while len(data) < length:
            data += connection.recv(length - len(data))
        assert data.endswith(b"\0")
        self.version, self.argument, self.parent, *self.environ = data[:-1].split(b"\0")

    def begin(self) -> None:
        """The first word, and the descriptors that are the answer to it."""
        self.say(b"a")
        _, self.fds, _, _ = socket.recv_fds(self._connection, 1, 16)

    def say(self, data: bytes) -> None:
        self._connection.sendall(data)

    def is_over(self) -> bool:
        try:
            return self._connection.recv(1) == b""
        except ConnectionResetError:
            return True

    def die(self) -> None:
        """Let go of everything, as the kernel does for a process that is killed."""
        while self.fds:
            os.close(self.fds.pop())
        self._connection.close()


@pytest.fixture(scope="session")
def shims() -> dict[str, Path]:
    subprocess.run(["make", "-sC", REPOSITORY / "native", "check/nix-ferry-hook"], check=True)
    return {"installed": INSTALLED / "nix-ferry-hook", "sanitized": REPOSITORY / "native/check/nix-ferry-hook"}


@pytest.fixture(params=["installed", "sanitized"])
def programs(tmp_path: Path, shims: dict[str, Path], request: pytest.FixtureRequest) -> Bin:
    return Bin(tmp_path, shims[request.param])


@pytest.fixture
def broker(programs: Bin) -> Iterator[FakeBroker]:
    broker = FakeBroker(programs.directory)
    yield broker
    broker.close()


class Nix:
    """Starts hooks and ends them with the test."""

    def __init__(self, programs: Bin) -> None:
        self._programs = programs
        self._hooks: list[Hook] = []

    def start(self, argument: str = "3", environ: Mapping[str, str] | None = None, redirect: str = "") -> Hook:
        self._hooks.append(Hook(self._programs, argument, environ, redirect))
        return self._hooks[-1]

    def close(self) -> None:
        for running in self._hooks:
            running.close()


@pytest.fixture
def nix(programs: Bin) -> Iterator[Nix]:
    nix = Nix(programs)
    yield nix
    nix.close()


def went_alone(programs: Bin, outcome: tuple[int, list[str]], stdin: bytes = b"") -> bool:
    """Whether the shim became the standalone hook, which then got `stdin` and all descriptors."""
    assert outcome == (9, ["alone"])
    assert (programs.state / "alone.stdin").read_bytes() == stdin
    return True


# A conversation


def test_the_broker_gets_everything_a_hook_has(nix: Nix, broker: FakeBroker) -> None:
    """Version, verbosity, parent, environment, and descriptors that lead to the parent; the broker's status is ours."""
    running = nix.start("5", {"NIX_SSHOPTS": "-p 22 -v", "EMPTY": ""})
    running.send(b"settings")
    conversation = broker.serve()
    assert conversation.version.decode() == hook.__version__
    assert conversation.argument == b"5"
    assert int(conversation.parent) == os.getpid()
    assert {b"NIX_SSHOPTS=-p 22 -v", b"EMPTY="} <= set(conversation.environ)
    standard_input, output, build_log = conversation.fds
    assert os.read(standard_input, 100) == b"settings"
    os.write(output, b"# accept\nssh://b1\n")
    os.write(build_log, b"building\n")
    conversation.say(b"qbx\x2a")
    conversation.die()
    assert running.end() == (42, ["# accept", "ssh://b1"])
    assert os.read(running.log, 100) == b"building\n"
    assert os.read(running.log, 100) == b""


@pytest.mark.parametrize("status", [0, 1, 100, 255])
def test_the_status_is_passed_on(nix: Nix, broker: FakeBroker, status: int) -> None:
    """Nix reads the outcome of a build from it."""
    running = nix.start()
    conversation = broker.serve()
    conversation.say(b"x" + bytes([status]))
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
    conversation.say(b"qb")
    running.process.kill()
    assert conversation.is_over()


def test_a_long_environment_arrives_whole(nix: Nix, broker: FakeBroker) -> None:
    """Longer than what a socket takes at once."""
    environ = {f"LONG_{number}": "x" * 120_000 for number in range(12)}
    running = nix.start(environ=environ)
    conversation = broker.serve()
    assert {f"{name}={value}".encode() for name, value in environ.items()} <= set(conversation.environ)
    conversation.say(b"x\0")
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
    conversation.say(b"x\0")
    conversation.die()
    assert running.end() == (0, [])


# The broker dies


def test_before_its_first_word_another_one_is_asked(nix: Nix, broker: FakeBroker) -> None:
    """It has read nothing yet: one that is leaving, or makes room for this version."""
    running = nix.start()
    broker.accept().die()
    conversation = broker.serve()
    conversation.say(b"x\5")
    conversation.die()
    assert running.end() == (5, [])


def test_brokers_that_never_say_a_word_are_done_without(nix: Nix, broker: FakeBroker, programs: Bin) -> None:
    """The third is the last."""
    running = nix.start()
    for _ in range(3):
        broker.accept().die()
    assert went_alone(programs, running.end(b"all of it"), b"all of it")


@pytest.mark.parametrize("said", [b"q", b"qaq", b"qx", b"qs", b"qs\x05\0\0\0abcd"])
def test_while_nix_waits_for_an_answer_it_gets_one(nix: Nix, broker: FakeBroker, said: bytes) -> None:
    """A hook that just vanished would abort the user's command."""
    running = nix.start()
    conversation = broker.serve()
    conversation.say(said)
    conversation.die()
    status, (line, answer) = running.end()
    assert (status, answer) == (1, "# decline-permanently")
    assert "the broker ended; this command goes on without other machines" in json.loads(line[5:])["msg"]


@pytest.mark.parametrize("said", [b"", b"qa"])
def test_between_questions_its_end_is_no_error(nix: Nix, broker: FakeBroker, said: bytes) -> None:
    """Nix has what it wanted and leaves."""
    running = nix.start()
    conversation = broker.serve()
    conversation.say(said)
    conversation.die()
    assert running.end() == (0, [])


def test_between_questions_the_next_one_is_still_answered(nix: Nix, broker: FakeBroker) -> None:
    """Nix cannot know that nobody is left: its question may be on the way already."""
    running = nix.start()
    conversation = broker.serve()
    conversation.say(b"qa")
    conversation.die()
    status, said = running.end(b"try")
    assert (status, said[-1]) == (1, "# decline-permanently")


def test_during_a_build_the_build_fails(nix: Nix, broker: FakeBroker) -> None:
    """After the accept any line that is no log message would be dropped."""
    running = nix.start()
    conversation = broker.serve()
    conversation.say(b"qb")
    conversation.die()
    status, (line,) = running.end()
    assert status == 1
    assert "the broker ended during this build" in json.loads(line[5:])["msg"]


# Going on alone


@pytest.mark.parametrize("size", [0, 5, 300_000])
def test_what_the_broker_gives_back_comes_before_the_rest(
    nix: Nix, broker: FakeBroker, programs: Bin, size: int
) -> None:
    """The standalone hook sees the conversation as if there had been no broker, and Nix sees the end of its pipes."""
    running = nix.start("6")
    running.send(b"taken")
    conversation = broker.serve()
    assert os.read(conversation.fds[0], 5) == b"taken"
    read = bytes(range(256)) * 1200
    conversation.say(b"qs" + struct.pack("<I", size) + read[:size])
    conversation.die()
    assert went_alone(programs, running.end(b"and the rest"), read[:size] + b"and the rest")
    assert (programs.state / "alone.argv").read_text().split()[1:] == ["6"]
    assert os.read(running.log, 100) == b"log\n"
    assert os.read(running.log, 100) == b""


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


def test_with_nothing_at_all_nix_is_told_to_go_on(nix: Nix, programs: Bin) -> None:
    """The last resort."""
    (programs.path / "nix-ferry-standalone").unlink()
    status, (line, answer) = nix.start().end()
    assert (status, answer) == (1, "# decline-permanently")
    assert "is the installation complete?" in json.loads(line[5:])["msg"]


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
    conversation.say(b"x\0")
    conversation.die()
    assert running.end() == (0, [])
    assert programs.directory.stat().st_mode & 0o777 == 0o700


def test_without_a_state_directory_the_runtime_directory_serves(nix: Nix, programs: Bin, tmp_path: Path) -> None:
    """A user who may not write to Nix's state can still have a broker."""
    broker = FakeBroker(tmp_path / "nix-ferry")
    running = nix.start(environ={"NIX_STATE_DIR": str(tmp_path / "absent"), "XDG_RUNTIME_DIR": str(tmp_path)})
    conversation = broker.serve()
    conversation.say(b"x\0")
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


@pytest.fixture
def hasty(programs: Bin) -> None:
    """A shim with less patience."""
    options = ["-D_GNU_SOURCE", "-DPATIENCE_MS=50", '-DFERRY_VERSION="0"']
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


def test_what_other_programs_python_is_told_does_not_reach_a_hook_on_its_own(nix: Nix, programs: Bin) -> None:
    """Nothing else of the environment is lost."""
    programs.script("nix-ferry-standalone", '#!/bin/sh\nenv > "$STATE/environment"\n')
    environ = {"NIX_FERRY_STANDALONE": "1", "PYTHONHOME": "/nonexistent", "MYPYTHON": "stays"}
    assert nix.start(environ=environ).end() == (0, [])
    names = {line.partition("=")[0] for line in (programs.state / "environment").read_text().splitlines()}
    assert {name for name in names if "PYTHON" in name} == {"MYPYTHON"}
    assert {"PATH", "NIX_STATE_DIR", "NIX_FERRY_STANDALONE"} < names


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
    assert not (programs.state / "alone.stdin").exists()
