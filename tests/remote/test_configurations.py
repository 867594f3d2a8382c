"""What is remembered of ssh's answers, and for how long; `ssh` is a script that answers `-G` as ssh does.

A real one is asked in tests/lab/test_callers.py.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hook.remote import configurations, sshfiles
from hook.remote.child import Command
from hook.remote.configurations import (
    AGAIN_S,
    HOLDS_S,
    MOST_ANSWERS,
    MOST_ASKED,
    PATIENCE_S,
    TOGETHER_S,
    Configuration,
    Configurations,
    meaningful,
)
from hook.remote.sshfiles import SshFiles

GUARD_S = 60.0


class Clock:
    """A time that passes when the test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SshFiles:
    """The only file that ssh reads; a test may have it decide by the moment."""
    files = SshFiles({str(tmp_path / "config"): None})

    def ssh_files(argv: object) -> SshFiles:
        path = str(tmp_path / "config")
        return SshFiles({path: sshfiles._stamp(path)}, files.momentary, files.variables, files.sent)

    monkeypatch.setattr(configurations, "ssh_files", ssh_files)
    return files


SAYS = """\
controlmaster auto
hostname ${WHERE:-b1}
sendenv LC_*
sendenv LANG
sendenv SENT_?
identityfile ${KEYS}/one
proxycommand ${PROXY:-none}
"""


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Command]:
    """A function that makes a command with these variables; each answer of its ssh is noted in `asked`."""
    ssh = tmp_path / "ssh"
    says = SAYS.replace("${KEYS}", "\\${KEYS}")
    ssh.write_text(
        f'#!/bin/sh\necho "$WHERE" >> {tmp_path}/asked\ncat <<end\n{says}loglevel $LEVEL\nend\nexit ${{STATUS:-0}}\n'
    )
    ssh.chmod(0o755)

    def command(*options: str, **environ: str) -> Command:
        return Command(("ssh", "b1", "-x", *options, "--", "nix"), {"PATH": f"{tmp_path}:/usr/bin:/bin", **environ})

    return command


def answer(known: Configurations, command: Command) -> Configuration:
    found = known.renew(command, GUARD_S)
    assert found is not None
    return found


def asked(tmp_path: Path) -> int:
    return len((tmp_path / "asked").read_text().splitlines())


def test_an_answer_is_remembered(
    command: Callable[..., Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the first one is not waited for by whoever only looks."""
    monkeypatch.setattr(configurations, "PATIENCE_S", GUARD_S)
    known = Configurations()
    assert known.look(command()) is None
    first = known.wait(command(), threading.Event().wait)
    assert first is not None
    assert known.look(command(PWD="/elsewhere", SHLVL="3", _="/bin/x")) is first
    assert asked(tmp_path) == 1


ALIKE = {"TERM": True, "LC_ALL": False, "LANG": False, "SENT_1": False, "SENT_12": True, "KEYS": False, "HOME": False}


@pytest.mark.parametrize("name", [*ALIKE, "SSH_AUTH_SOCK", "KRB5CCNAME", "WHERE", "PROXY"])
def test_callers_are_alike_if_ssh_does_the_same_for_them(command: Callable[..., Command], name: str) -> None:
    """By what it says, sends and looks at; not by what else is in their environments."""
    known = Configurations()
    same = answer(known, command()).identity == answer(known, command(**{name: "other"})).identity
    assert same is ALIKE.get(name, False)


def test_where_a_program_is_on_the_way_all_variables_count(command: Callable[..., Command]) -> None:
    """Ssh does not know which of them it looks at."""
    known = Configurations()
    identities = {answer(known, command(PROXY="nc", **more)).identity for more in ({}, {"AWS": "1"}, {"SHLVL": "9"})}
    assert len(identities) == 2


def test_how_much_ssh_says_leads_nowhere(command: Callable[..., Command]) -> None:
    known = Configurations()
    assert answer(known, command(LEVEL="DEBUG1")).identity == answer(known, command(LEVEL="INFO")).identity


def test_a_changed_file_is_noticed_at_once(command: Callable[..., Command], tmp_path: Path) -> None:
    """What is changed may be about a machine on the way, of which ssh says nothing."""
    known = Configurations()
    before = answer(known, command())
    (tmp_path / "config").write_text("Host jump\n")
    assert known.look(command()) is None
    after = answer(known, command())
    assert after.identity != before.identity
    assert after.speaks_of(after.asked_at)
    assert not after.speaks_of(after.asked_at - 1)


def test_what_depends_on_the_moment_is_asked_again(
    command: Callable[..., Command], tmp_path: Path, files: SshFiles
) -> None:
    """In time, so that nobody has to wait; and at last not believed any more."""
    files.momentary = True
    clock = Clock()
    known = Configurations(clock)
    first = answer(known, command())
    assert first.speaks_of(clock.now + TOGETHER_S)
    assert first.speaks_of(clock.now - TOGETHER_S)
    assert not first.speaks_of(clock.now + TOGETHER_S + 1)
    clock.now += AGAIN_S
    assert known.look(command()) is first
    assert asked(tmp_path) == 1
    clock.now += 1
    assert known.look(command()) is first
    second = answer(known, command())
    assert asked(tmp_path) == 2
    assert second.identity == first.identity
    clock.now += HOLDS_S
    assert known.look(command()) is None


def test_what_does_not_depend_on_the_moment_is_asked_once(command: Callable[..., Command], tmp_path: Path) -> None:
    clock = Clock()
    known = Configurations(clock)
    first = answer(known, command())
    clock.now += 24 * 3600
    assert known.look(command()) is first
    assert first.speaks_of(clock.now)
    assert asked(tmp_path) == 1


def test_where_names_are_made_canonical_the_moment_decides(command: Callable[..., Command], tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(ssh.read_text().replace("loglevel", "canonicalizehostname true\nloglevel"))
    assert answer(Configurations(), command()).momentary


def test_an_answer_that_comes_at_once_is_not_asked_for_again(
    command: Callable[..., Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anybody could wait for it."""
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.run)
    answer(Configurations(), command())
    assert asked(tmp_path) == 1


def test_an_answer_that_has_come_meanwhile_is_not_asked_for_again(
    command: Callable[..., Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has asked and heard while another one looked."""
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.run)
    others = [lambda: answer(known, command())]

    def clock() -> float:
        if others:
            others.pop()()
        return 1000.0

    known = Configurations(clock)
    known.look(command())
    assert asked(tmp_path) == 1


def test_nobody_waits_long_for_ssh(command: Callable[..., Command], tmp_path: Path, files: SshFiles) -> None:
    """Not at all where something is known to keep it, otherwise a moment, and one asks for all."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    ssh = tmp_path / "ssh"
    ssh.write_text(ssh.read_text().replace("cat <<", f"read -r line < {gate}\ncat <<"))
    clock = Clock()

    def pause(seconds: float) -> None:
        clock.now += PATIENCE_S / 4

    known = Configurations(clock)
    for _ in range(2):
        assert known.wait(command(), pause) is None
    assert clock.now > 1000 + PATIENCE_S
    files.momentary = True
    impatient = Configurations(clock)
    assert impatient.wait(command(), lambda seconds: pytest.fail("it waited")) is None
    # Open at both ends, so that it makes no difference who comes first.
    with open(os.open(gate, os.O_RDWR), "wb", buffering=0) as lines:
        lines.write(b"\n" * 9)
        for each in (known, impatient):
            assert answer(each, command())
        assert asked(tmp_path) <= 3


def test_an_ssh_that_cannot_say_is_taken_to_look_at_everything(command: Callable[..., Command], tmp_path: Path) -> None:
    """An old one, or somebody's script; it shares nothing, and is asked again now and then."""
    known = Configurations()
    found = answer(known, command(STATUS="1"))
    assert (found.options, found.momentary) == (None, True)
    assert found.identity != answer(known, command(STATUS="1", TERM="x")).identity
    assert found.identity == answer(known, command(STATUS="1", PWD="x")).identity
    assert answer(known, Command(("ssh", "b1", "--"), {"PATH": "/nonexistent"})).options is None


def test_memory_is_bounded(command: Callable[..., Command], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every login of a user may have an environment of its own, and a broker may live for months."""
    known = Configurations()
    monkeypatch.setattr(configurations, "MOST_ANSWERS", 2)
    kept = answer(known, command(X="0"))
    answer(known, command(X="1"))
    assert known.look(command(X="0")) is kept
    answer(known, command(X="2"))
    assert known.look(command(X="0")) is kept
    assert known.look(command(X="1")) is None
    assert MOST_ANSWERS <= 1000


def test_a_crowd_of_questions_is_not_asked_at_once(
    command: Callable[..., Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are left out are asked when somebody looks again."""
    gate = threading.Event()
    begun: list[Command] = []

    def ask(command: Command, now: float) -> Configuration:
        begun.append(command)
        assert gate.wait(GUARD_S)
        return Configuration("x", None, False, now, SshFiles())

    monkeypatch.setattr(configurations, "ask", ask)
    known = Configurations()
    for number in range(MOST_ASKED + 5):
        assert known.look(command(X=str(number))) is None
    gate.set()
    assert known.renew(command(X=str(MOST_ASKED + 1)), GUARD_S) is None or len(begun) > MOST_ASKED
    assert len(begun) <= MOST_ASKED + 1


def test_health_is_told_apart_only_where_something_of_the_caller_decides(tmp_path: Path, files: SshFiles) -> None:
    """A dead machine costs its time-out once, not once for every terminal."""
    assert Configurations().scope({"TERM": "a"}) == Configurations().scope({"TERM": "b"})
    assert Configurations().scope({"NIX_SSHOPTS": "-F a"}) != Configurations().scope({"NIX_SSHOPTS": "-F b"})
    files.variables.add("KEY")
    assert Configurations().scope({"KEY": "a"}) != Configurations().scope({"KEY": "b"})
    assert Configurations().scope({"TERM": "a"}) == Configurations().scope({"TERM": "b"})
    files.sent.add("TOKEN_*")
    assert Configurations().scope({"TOKEN_1": "a"}) != Configurations().scope({"TOKEN_1": "b"})
    assert Configurations().scope({"TERM": "a"}) == Configurations().scope({"TERM": "b"})
    files.sent.add("*")
    assert Configurations().scope({"PWD": "a"}) == Configurations().scope({"PWD": "b"})
    files.momentary = True
    assert Configurations().scope({"TERM": "a"}) != Configurations().scope({"TERM": "b"})
    assert Configurations().scope({"PWD": "a"}) == Configurations().scope({"PWD": "b"})
    assert meaningful({"PWD": "a", "A": "b"}) == {"A": "b"}


def test_health_is_that_of_the_configuration_as_it_is(tmp_path: Path) -> None:
    """What failed by another one tells nothing."""
    known = Configurations()
    before = known.scope({})
    assert known.scope({}) == before
    (tmp_path / "config").write_text("Host b1\n")
    assert known.scope({}) != before
