"""A daemon behind a socket: what it is sent, and what happens when it is not there or goes away.

The daemon is the scripted one, started for each connection as a real one forks.
"""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hook.errors import ConnectionLost, MachineError
from hook.protocol.options import Options
from hook.remote.connection import Address, Link, Remote
from hook.remote.stream import Stream
from hook.remote.unixsocket import UnixSocket
from tests.fakes import DAEMON
from tests.leaks import no_leaks

ALL = Options(cores=3, others={"sandbox": "true", "timeout": "9"})
HUMBLE = Options(cores=3, others={"timeout": "9"})


@contextmanager
def listening(path: Path, behaviour: str) -> Iterator[list[str]]:
    """A daemon that serves one connection; the list becomes what it printed."""
    said: list[str] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                command = [*DAEMON, behaviour]
                done = subprocess.run(command, stdin=connection, stdout=connection, stderr=subprocess.PIPE, check=False)
                said.extend(done.stderr.decode().splitlines())

        thread = threading.Thread(target=serve)
        thread.start()
        yield said
        thread.join()


@pytest.mark.parametrize(
    ("behaviour", "expected"), [("ok", ALL), ("nix-2.8", ALL), ("untrusting", HUMBLE)], ids=["trusted", "old", "not"]
)
def test_the_daemon_is_sent_the_settings_that_it_takes_from_us(
    tmp_path: Path, behaviour: str, expected: Options
) -> None:
    """One that does not trust us would print a warning for each other; old ones do not say."""
    with listening(tmp_path / "socket", behaviour) as said:
        remote = Remote(Link(Address(UnixSocket(str(tmp_path / "socket"), ALL, HUMBLE), "unix", "daemon")))
        assert remote.client.query_valid_paths([], substitute=False) == set()
        assert remote.is_clean()
        remote.close()
    assert said == [f"options: {dict(expected.others)}"]


@pytest.mark.parametrize("there", [False, True], ids=["missing", "deaf"])
def test_a_socket_without_a_daemon_is_a_machine_that_fails(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "socket"
    if there:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
    reason = "Connection refused" if there else "No such file or directory"
    with no_leaks(), pytest.raises(MachineError, match=f"^cannot connect to socket at '{path}': {reason}$"):
        UnixSocket(str(path), ALL, HUMBLE).connect("daemon")


def test_a_daemon_that_ends_with_our_words_unread_is_lost_like_any_other() -> None:
    """A pipe just ends; a socket reports a reset."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = Stream(os.dup(ours.fileno()), os.dup(ours.fileno()), None, "daemon")
        stream.write(b"a request")
        stream.flush()
        theirs.close()
        with pytest.raises(ConnectionLost, match="unexpected end of file"):
            stream.read(8)
        stream.close()
