"""The child whose pipes are a connection: its whole life, and what it says when it ends.

A shell script stands in the place of ssh; a real ssh meets a real sshd in tests/lab/test_ssh.py.
"""

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hook.errors import ConnectionLost, MachineError, ProtocolError, Trouble
from hook.protocol import handshake
from hook.remote import child
from hook.remote.child import Command, Connection
from tests.leaks import no_leaks

GUARD_S = 60
"""Longer than anything takes that a test waits for."""


@contextmanager
def connected(script: str) -> Iterator[Connection]:
    """A connection to a shell script in the place of ssh."""
    connection = Connection(Command(("sh", "-c", script), {"PATH": os.environ["PATH"]}), "ssh-ng://b1")
    try:
        yield connection
    finally:
        connection.close()


def test_bytes_go_both_ways() -> None:
    with connected("cat") as connection:
        connection.stream.write(b"there and back")
        assert connection.stream.read(14) == b"there and back"


def test_a_program_that_is_missing_is_one_line() -> None:
    """With a daemon PATH may hold no ssh."""
    with pytest.raises(MachineError, match=r"^cannot run 'ssh': No such file or directory$"):
        Connection(Command(("ssh", "b1"), {"PATH": "/nonexistent"}), "ssh-ng://b1")


def test_the_child_gets_no_descriptor_but_its_three() -> None:
    """A copy of a slot's lock, or of the pipe to Nix, would outlive the hook in a background ssh."""
    leak = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        list_own = f"exec {sys.executable} -Ic 'import os; print(sorted(os.listdir(\"/proc/self/fd\")))'"
        with connected(list_own) as connection:
            # The fourth one is the directory being listed.
            assert connection.stream.read(21) == b"['0', '1', '2', '3']\n"
    finally:
        os.close(leak)


SILENT = "trap '' TERM HUP INT; while :; do read line || :; done"


@pytest.mark.parametrize("script", ["cat", "exit 3", "echo noise; echo trouble >&2", SILENT])
@pytest.mark.parametrize("explained", [False, True])
def test_close_leaves_neither_child_nor_descriptor(script: str, explained: bool) -> None:
    """Thousands of connections in one process; also of a child that ignores every polite signal."""
    with no_leaks(), connected(script) as connection:
        if explained:
            connection.explain(ProtocolError("too old"))


def test_close_lets_the_child_end_its_own_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ssh ends a ProxyCommand: killed at once it could not, and some of these never notice."""
    monkeypatch.setattr(child, "GRACE_S", GUARD_S)
    with connected("tail -f /dev/null & trap 'kill $!; wait $!; exit' TERM; echo $!; wait") as connection:
        helper = b""
        while not helper.endswith(b"\n"):
            helper += connection.stream.read(1)
        assert Path("/proc", helper.decode().strip()).exists()
    assert not Path("/proc", helper.decode().strip()).exists()


@pytest.mark.parametrize("spare", [0, 1, 2])
def test_a_process_out_of_descriptors_keeps_neither_child_nor_descriptor(
    spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hundred builds of a broker; a child that nobody knows would stay for ever."""
    left = [os.dup] * spare

    def dup(fd: int) -> int:
        if not left:
            raise OSError(errno.EMFILE, "Too many open files")
        return left.pop()(fd)

    monkeypatch.setattr(os, "dup", dup)
    with no_leaks(), pytest.raises(MachineError, match="cannot run 'cat': Too many open files"):
        Connection(Command(("cat",), dict(os.environ)), "b1")


def test_a_connection_that_could_not_start_leaves_no_descriptor() -> None:
    with no_leaks(), pytest.raises(MachineError):
        Connection(Command(("/nonexistent/ssh",), {}), "ssh-ng://b1")


# What it has to say

NOT_INSTALLED = "(Nix is not installed there, or not in PATH of a non-interactive login; see `remote-program`)"
CHANGED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Add correct host key in /root/.ssh/known_hosts to get rid of this message.
Host key for b1 has changed and you have requested strict checking.
Host key verification failed.
"""

SAID = {
    "resolve": (
        "ssh: Could not resolve hostname b1: Name or service not known\r\n",
        255,
        "its name cannot be resolved: ssh: Could not resolve hostname b1: Name or service not known",
    ),
    "key": (
        "Authorised use only.\n\nroot@b1: Permission denied (publickey).\r\n",
        255,
        "it refused the login: Authorised use only.; root@b1: Permission denied (publickey). "
        "(the machine refused the key; ssh runs as the user of the Nix daemon, without questions)",
    ),
    "unknown": (
        "Host key verification failed.\r\n",
        255,
        "its host key was not accepted: Host key verification failed. "
        "(add the machine's host key to known_hosts, or to the last column of `builders`)",
    ),
    "changed": (
        CHANGED,
        255,
        "its host key was not accepted: "
        "Host key for b1 has changed and you have requested strict checking.; Host key verification failed. "
        "(it is not the key in known_hosts, or in the last column of `builders`)",
    ),
    "busy": (
        "kex_exchange_identification: read: Connection reset by peer\r\nConnection reset by 10.0.0.1 port 22\r\n",
        255,
        "it refused the connection: "
        "kex_exchange_identification: read: Connection reset by peer; Connection reset by 10.0.0.1 port 22 "
        "(its sshd turns connections away: see MaxStartups and PerSourcePenalties there)",
    ),
    "bash": (
        "bash: line 1: nix-daemon: command not found\n",
        127,
        f"it has no Nix: bash: line 1: nix-daemon: command not found {NOT_INSTALLED}",
    ),
    "fish": (
        "fish: Unknown command: nix-daemon\n",
        127,
        f"it has no Nix: fish: Unknown command: nix-daemon {NOT_INSTALLED}",
    ),
    "mute": ("", 127, f"it has no Nix, exit status 127 {NOT_INSTALLED}"),
    "lock": (
        "error: opening lock file '/nix/var/nix/db/big-lock': Permission denied\n",
        1,
        "unexpected end of file, exit status 1: error: opening lock file '/nix/var/nix/db/big-lock': Permission denied",
    ),
    "banner": (
        "Authorized use only.\nAll is recorded.\n",
        1,
        "unexpected end of file, exit status 1: Authorized use only.; All is recorded.",
    ),
    "nothing": ("", 255, "unexpected end of file, exit status 255"),
    "verbose": (
        "debug1: Connecting\nssh: connect to host b1 port 22: Connection refused\nTransferred: sent 1\ndebug2: two\n",
        255,
        "it refused the connection: ssh: connect to host b1 port 22: Connection refused",
    ),
}


@pytest.fixture
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is ending has all the time it takes."""
    monkeypatch.setattr(child, "SETTLE_S", GUARD_S)


@pytest.mark.usefixtures("no_hurry")
@pytest.mark.parametrize("case", SAID)
def test_what_ssh_or_the_remote_shell_said_ends_up_in_the_error(case: str) -> None:
    """The end of it, on one line, and advice where its reader can do something about it."""
    said, status, expected = SAID[case]
    with connected(f"cat >&2 <<'end'\n{said}end\nexit {status}") as connection:
        with pytest.raises(ConnectionLost) as caught:
            connection.stream.read(8)
        explained = connection.explain(caught.value)
    assert str(explained) == expected
    assert isinstance(explained, ConnectionLost)
    assert str(explained).startswith(explained.trouble.words) or explained.trouble is Trouble.LOST


@pytest.mark.usefixtures("no_hurry")
def test_the_death_of_ssh_is_told_the_same_way_while_writing() -> None:
    """Which of the two directions fails first is a matter of chance."""
    with connected("exec <&-; echo 'ssh: connect to host b1 port 22: Connection refused' >&2") as connection:
        connection.stream.stderr_lines(GUARD_S)
        connection.stream.write(b"hello")
        with pytest.raises(ConnectionLost) as caught:
            connection.stream.flush()
        text = str(connection.explain(caught.value))
    assert text == "it refused the connection: ssh: connect to host b1 port 22: Connection refused"


def test_an_error_that_is_not_the_connections_stays_as_it_is() -> None:
    """A failed build is not ssh's doing, whatever ssh printed."""
    with connected("echo 'Warning: something' >&2; cat") as connection:
        connection.stream.stderr_lines()
        error = MachineError("it refused an input")
        assert connection.explain(error) is error


@pytest.mark.usefixtures("no_hurry")
def test_the_log_of_a_build_explains_nothing() -> None:
    """With `ssh://` it comes where ssh explains itself, and would be quoted as ssh's last words."""
    with connected("read line; echo 'a line of the log' >&2; exit 1") as connection:
        reader, writer = os.pipe()
        connection.stream.copy_stderr(writer)
        connection.stream.write(b"go\n")
        with pytest.raises(ConnectionLost) as caught:
            connection.stream.read(8)
        text = str(connection.explain(caught.value))
        assert os.read(reader, 100) == b"a line of the log\n"
        os.close(reader)
        os.close(writer)
    assert text == "unexpected end of file, exit status 1"


def test_the_rest_of_a_log_is_taken_from_who_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared connection is another process's, and ends a build there only when it is rid of the log."""
    monkeypatch.setattr(child, "LAST_WORDS_S", GUARD_S)
    rid = tmp_path / "rid"
    os.mkfifo(rid)
    script = f"read line; setsid sh -c 'head -c 3000000 /dev/zero >&2 && echo of it' >{rid} & wait"
    with connected(script) as connection:
        connection.stream.copy_stderr(os.open(os.devnull, os.O_WRONLY))
        connection.stream.write(b"go\n")
        connection.stream.flush()
        with rid.open() as keeper:
            connection.close()
            assert keeper.read() == "of it\n"


@pytest.mark.parametrize("end", [SILENT, "exit 3"])
def test_a_greeting_that_nothing_follows_is_explained_soon(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """A shell may go on waiting for commands."""
    monkeypatch.setattr(handshake, "NEXT_NOISE_S", 0.05)
    begun = time.monotonic()
    with (
        connected(f"echo Welcome, stranger; {end}") as connection,
        pytest.raises(ProtocolError, match=r"got 'Welcome, stranger\\n'"),
    ):
        handshake.skip_noise(connection.stream, handshake.SERVER_MAGIC)
    assert time.monotonic() - begun < 5


def test_text_on_standard_output_is_explained_at_once() -> None:
    """A shell that greets goes on waiting for commands: there is no end to wait for."""
    with connected(f"echo 'profile: oops' >&2; echo Welcome; {SILENT}") as connection:
        assert connection.stream.read(8) == b"Welcome\n"
        text = str(connection.explain(ProtocolError("expected the Nix protocol")))
    assert text == "expected the Nix protocol: profile: oops"
