"""The shim with programs beside it, and the test as Nix, as broker and as what is installed."""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.standing import broker_socket

INSTALLED = Path(sys.executable).parent
TIMEOUT_S = 60


def message(word: str, data: bytes = b"") -> bytes:
    """What a server says."""
    return word.encode() + struct.pack("<I", len(data)) + data


def reply(text: bytes, place: int = 0, count: int = 0) -> bytes:
    """The shim writes `text`, and forgets what it keeps there."""
    return message("r", struct.pack("<II", place, count) + text)


ALONE = {"NIX_FERRY_STANDALONE": "1"}
"""Has the shim do without a broker."""

IDENTITY = "0.1-cafe"
READY = message("h")

STOCK = """#!/bin/sh
echo "$*" > "$STATE/stock.arguments"
env > "$STATE/stock.environment"
echo stock >&2
echo log >&4
cat > "$STATE/stock.stdin"
exit 9
"""

STANDALONE = f"""#!{sys.executable} -IS
import os, socket, sys
links = [f"/proc/self/fd/{{fd}}" for fd in os.listdir("/proc/self/fd")]
facts = {{link[14:]: os.readlink(link) for link in links if os.path.lexists(link)}}
with open(os.environ["STATE"] + "/alone.json", "w") as file:
    file.write(repr((sys.argv, facts, dict(os.environ), os.getpgrp())))
server = socket.socket(fileno=int(sys.argv[1]))
server.recv(1 << 20)
server.sendall({message("h")!r})
_, fds, _, _ = socket.recv_fds(server, 1, 3)
heard = b""
while piece := server.recv(1 << 20):
    heard += piece
with open(os.environ["STATE"] + "/alone.heard", "wb") as file:
    file.write(heard)
os.write(fds[1], b"alone\\n")
os.write(fds[2], b"log\\n")
for fd in fds:
    os.close(fd)
server.sendall({message("x", bytes([9]))!r})
"""

BROKER = f"""#!{sys.executable}
import json, os, socket, sys
directory, ready, standing = sys.argv[1:]
state = os.path.dirname(directory)
links = [f"/proc/self/fd/{{fd}}" for fd in os.listdir("/proc/self/fd")]
fds = {{link[14:]: os.readlink(link) for link in links if os.path.lexists(link)}}
facts = {{"fds": fds, "pid": os.getpid(), "session": os.getsid(0), "group": os.getpgrp(), "cwd": os.getcwd()}}
facts["environ"] = dict(os.environ)
facts["mounts"] = os.readlink("/proc/self/ns/mnt")
server = socket.socket(socket.AF_UNIX)
server.bind(f"{{directory}}/{{standing}}.sock")
server.listen()
os.write(int(ready), b"1")
connection, _ = server.accept()
connection.recv(1 << 20)
connection.sendall({message("h")!r})
for fd in socket.recv_fds(connection, 1, 3)[1]:
    os.close(fd)
connection.sendall({message("x", bytes([7]))!r})
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
        self.hook = self.path / "nix-ferry-hook"
        shutil.copy2(shim, self.hook)
        self.script("nix-ferry-standalone", STANDALONE)
        self.script("nix", STOCK)
        self.identify(root)

    def identify(self, root: Path, identity: str = IDENTITY) -> None:
        """What is installed below `root` is this build."""
        file = root / "share/nix-ferry/identity"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{identity}\n")

    def script(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)
        (self.path / name).chmod(0o755)

    def real(self, name: str) -> None:
        """Have the program of this name that the tests run with, which is of no build."""
        (self.path / name).symlink_to(INSTALLED / name)
        (self.path.parent / "share/nix-ferry/identity").unlink()


class Hook:
    """The shim with the descriptors that Nix gives it, and one that leaked; the test is Nix."""

    def __init__(
        self,
        programs: Bin,
        argument: str = "3",
        environ: Mapping[str, str] | None = None,
        redirect: str = "",
        before: str = "",
    ):
        log_read, log_write = os.pipe()
        self.log = log_read
        # Out of the way of the numbers to be given away.
        leaked = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (log_read, log_write)]
        command = f'{before} exec "$0" "$@" 1>&2 4>&{leaked[1]} 5<&{leaked[0]} {redirect}'
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", command, programs.hook, argument],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                "PATH": f"{programs.path}:{os.environ['PATH']}",
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
        self.identity, self.format, self.argument, self.parent, *self.environ = data[:-1].split(b"\0")

    def begin(self) -> None:
        """The first word, and the descriptors that are the answer to it."""
        self.say(READY)
        _, self.fds, _, _ = socket.recv_fds(self._connection, 1, 16)

    def hear(self, size: int) -> bytes:
        """So many bytes that are passed on; fewer at their end."""
        data = b""
        while len(data) < size and (piece := self._connection.recv(size - len(data))):
            data += piece
        return data

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


class Nix:
    """Starts hooks and ends them with the test."""

    def __init__(self, programs: Bin) -> None:
        self._programs = programs
        self._hooks: list[Hook] = []

    def start(
        self, argument: str = "3", environ: Mapping[str, str] | None = None, redirect: str = "", before: str = ""
    ) -> Hook:
        """One more; `before` is what a shell does first, `redirect` where its descriptors then lead."""
        self._hooks.append(Hook(self._programs, argument, environ, redirect, before))
        return self._hooks[-1]

    def close(self) -> None:
        for running in self._hooks:
            running.close()


def went_alone(programs: Bin, outcome: tuple[int, list[str]], stdin: bytes = b"") -> bool:
    """Whether the standalone hook answered, which got `stdin` and all descriptors."""
    assert outcome == (9, ["alone"])
    assert (programs.state / "alone.heard").read_bytes() == stdin
    return True


def became_stock(programs: Bin, outcome: tuple[int, list[str]], stdin: bytes) -> bool:
    """Whether the stock hook answered, which got `stdin` and all descriptors; at verbosity 3 nobody says why."""
    assert outcome == (9, ["stock"])
    assert (programs.state / "stock.stdin").read_bytes() == stdin
    return True
