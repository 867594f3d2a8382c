"""Whatever becomes of who serves a hook, Nix gets its answer: until a build is accepted, from the stock hook.

Nix's question is sent, a server hears and says so much of what it would, and is gone; then everything must go on as if
there had been none.  Servers are the test itself, as a broker, and a script, as the standalone hook.  A hook that is
handed on is in test_shim_hands_on.py.
"""

import json
import signal
import struct
import sys

import pytest

from hook.front.front import format_request, format_settings
from hook.front.request import Request
from hook.values.settings import Settings
from tests.fakes.shims import (
    ALONE,
    READY,
    TIMEOUT_S,
    Bin,
    FakeBroker,
    Hook,
    Nix,
    message,
    reply,
)

JOB = b"inputs and outputs"
ACCEPT = b"# accept\nb1\n"

FULL_STOCK = """#!/bin/sh
head -c "$QUESTION_BYTES" > "$STATE/question"
printf '# accept\\nstock\\n' >&2
cat > "$STATE/job"
exit 9
"""
"""A stock hook that waits for the whole question."""

MORTAL = f"""#!{sys.executable} -IS
import os, signal, socket, sys
server = socket.socket(fileno=int(sys.argv[1]))
server.recv(1 << 20)
hears, says = int(os.environ["HEARS"]), bytes.fromhex(os.environ["SAYS"])
server.sendall(says[:5])
if len(says) >= 5:
    fds = socket.recv_fds(server, 1, 3)[1]
while hears:
    hears -= len(server.recv(hears))
server.sendall(says[5:])
os.kill(os.getpid(), signal.SIGKILL)
"""
"""A standalone hook that is killed when it has heard so many bytes and said so many."""


class Conversation:
    """A question of Nix with job slots here or without, and the next one."""

    def __init__(self, jobs: int) -> None:
        settings = {"builders": "ssh://b1", "max-jobs": str(jobs)}
        request = Request("s", "/nix/store/a.drv", frozenset({"kvm"}), am_willing=jobs > 0)
        other = Request("s", "/nix/store/bb.drv", frozenset(), am_willing=jobs > 0)
        self.settings = format_settings(Settings(settings))
        self.kept = format_settings(Settings({**settings, "builders": ""}))
        self.request, self.other = format_request(request), format_request(other)
        self.question = self.settings + self.request

    def messages(self) -> list[bytes]:
        """What a server says that replaces the settings and declines."""
        keep = message("k", struct.pack("<I", len(self.settings)) + self.kept)
        return [READY, keep, reply(b"# decline\n", len(self.kept), len(self.request))]


@pytest.fixture(params=[0, 1], ids=["j0", "j1"])
def conversation(request: pytest.FixtureRequest) -> Conversation:
    return Conversation(request.param)


def built_by_stock(programs: Bin, running: Hook, question: bytes) -> None:
    """The rest of a conversation that only the stock hook can answer."""
    stderr = running.process.stderr
    assert stderr is not None
    said = list(iter(stderr.readline, b"# accept\n"))
    assert not any(line.startswith(b"# ") for line in said), said
    assert stderr.readline() == b"stock\n"
    assert running.end(JOB) == (9, [])
    assert (programs.state / "question").read_bytes() == question
    assert (programs.state / "job").read_bytes() == JOB


def environ(question: bytes, hears: int = 0, says: bytes = b"") -> dict[str, str]:
    return {"QUESTION_BYTES": str(len(question)), "HEARS": str(hears), "SAYS": says.hex()}


# Killed after every byte: many runs, for which one shim will do

ONE_SHIM = pytest.mark.parametrize("programs", ["installed"], indirect=True)


@ONE_SHIM
def test_the_broker_is_killed_after_every_byte_that_it_hears(
    nix: Nix, broker: FakeBroker, programs: Bin, conversation: Conversation
) -> None:
    """Whether Nix has said everything by then, or, in every other run, goes on afterwards."""
    programs.script("nix", FULL_STOCK)
    question = conversation.question
    for heard in range(len(question) + 1):
        said = heard if heard % 2 else len(question)
        running = nix.start(environ=environ(question))
        running.send(question[:said])
        server = broker.serve()
        assert server.hear(heard) == question[:heard]
        server.die()
        running.send(question[said:])
        built_by_stock(programs, running, question)


@ONE_SHIM
def test_the_broker_is_killed_after_every_byte_that_it_says(
    nix: Nix, broker: FakeBroker, programs: Bin, conversation: Conversation
) -> None:
    """Nix hears one answer to each question, and the stock hook the settings that it is to have."""
    programs.script("nix", FULL_STOCK)
    ready, keep, decline = conversation.messages()
    says = keep + decline + message("a", ACCEPT)
    for size in range(len(says)):
        declined = size >= len(keep + decline)
        settings = conversation.kept if size >= len(keep) else conversation.settings
        expected = settings + (conversation.other if declined else conversation.request)
        running = nix.start(environ=environ(expected))
        running.send(conversation.question)
        server = broker.serve()
        assert server.hear(len(conversation.question)) == conversation.question
        if declined:
            server.say(keep + decline)
            stderr = running.process.stderr
            assert stderr is not None
            assert stderr.readline() == b"# decline\n"
            running.send(conversation.other)
            assert server.hear(len(conversation.other)) == conversation.other
            server.say(says[len(keep + decline) : size])
        else:
            server.say(says[:size])
        server.die()
        built_by_stock(programs, running, expected)
    assert ready == READY


@ONE_SHIM
def test_the_interpreter_is_killed_after_every_byte_that_it_hears(
    nix: Nix, programs: Bin, conversation: Conversation
) -> None:
    """The same without a broker."""
    programs.script("nix", FULL_STOCK)
    programs.script("nix-ferry-standalone", MORTAL)
    question = conversation.question
    for heard in range(len(question) + 1):
        running = nix.start(environ={**ALONE, **environ(question, heard, READY)})
        running.send(question)
        built_by_stock(programs, running, question)


@ONE_SHIM
def test_the_interpreter_is_killed_after_every_byte_that_it_says(
    nix: Nix, programs: Bin, conversation: Conversation
) -> None:
    """Up to the last one of its accept."""
    programs.script("nix", FULL_STOCK)
    programs.script("nix-ferry-standalone", MORTAL)
    ready, keep, _ = conversation.messages()
    says = ready + keep + message("a", ACCEPT)
    for size in range(len(says)):
        settings = conversation.kept if size >= len(ready + keep) else conversation.settings
        question = settings + conversation.request
        hears = len(conversation.question) if size >= len(ready) else 0
        running = nix.start(environ={**ALONE, **environ(question, hears, says[:size])})
        running.send(conversation.question)
        built_by_stock(programs, running, question)


def test_an_accept_of_somebody_who_is_gone_is_none(nix: Nix, broker: FakeBroker, programs: Bin) -> None:
    """It was killed before Nix could be told."""
    running = nix.start()
    server = broker.serve()
    running.process.send_signal(signal.SIGSTOP)
    server.say(message("a", ACCEPT))
    server.die()
    running.process.send_signal(signal.SIGCONT)
    status, said = running.end(b"question")
    assert (status, said[-1]) == (9, "stock")
    assert (programs.state / "stock.stdin").read_bytes() == b"question"


# Between questions, and after the accept


def test_between_questions_an_end_is_no_error(nix: Nix, broker: FakeBroker, conversation: Conversation) -> None:
    """Nix has what it wanted and leaves."""
    running = nix.start()
    running.send(conversation.question)
    server = broker.serve()
    server.hear(len(conversation.question))
    server.say(b"".join(conversation.messages()[1:]))
    server.die()
    assert running.end() == (0, ["# decline"])


def test_before_any_question_an_end_is_no_error(nix: Nix, broker: FakeBroker) -> None:
    """Nix starts hooks that it then does not need."""
    running = nix.start()
    broker.serve().die()
    assert running.end() == (0, [])


def test_the_loss_of_a_broker_is_said(nix: Nix, broker: FakeBroker, programs: Bin) -> None:
    """It should not happen."""
    running = nix.start()
    running.send(b"question")
    server = broker.serve()
    server.hear(8)
    server.die()
    status, (line, said) = running.end()
    assert (status, said) == (9, "stock")
    assert "the broker ended before its answer; the stock build hook answers" in json.loads(line[5:])["msg"]


@pytest.mark.parametrize("alone", [False, True])
def test_during_a_build_the_build_fails(nix: Nix, broker: FakeBroker, programs: Bin, alone: bool) -> None:
    """After the accept any line that is no log message would be dropped, and nobody else can have the build."""
    if alone:
        programs.script("nix-ferry-standalone", MORTAL.replace("os.kill", "server.recv(1); os.kill"))
        running = nix.start(environ={**ALONE, **environ(b"", 8, READY + message("a", ACCEPT))})
        running.send(b"question")
    else:
        running = nix.start()
        server = broker.serve()
        server.say(message("a", ACCEPT))
        assert server.hear(1) == b""
        server.die()
    stderr = running.process.stderr
    assert stderr is not None
    assert (stderr.readline(), stderr.readline()) == (b"# accept\n", b"b1\n")
    running.stdin.close()
    (line,) = stderr.read().decode().splitlines()
    assert running.process.wait(TIMEOUT_S) == 1
    name = "nix-ferry-standalone" if alone else "the broker"
    assert f"{name} ended during this build" in json.loads(line[5:])["msg"]


@pytest.mark.parametrize(
    "said",
    [
        message("?"),
        message("r", b"short"),
        reply(b"# decline\n", 0, 9),
        reply(b"# decline\n", 9, 0),
        message("k", struct.pack("<I", 9)),
        message("k"),
        message("x"),
        message("x", b"12"),
        b"r\xff\xff\xff\xff",
    ],
)
def test_what_makes_no_sense_counts_as_an_end(nix: Nix, broker: FakeBroker, programs: Bin, said: bytes) -> None:
    """It may be of another build; nothing of it reaches Nix."""
    running = nix.start()
    running.send(b"question")
    server = broker.serve()
    assert server.hear(8) == b"question"
    server.say(said)
    assert server.is_over()
    server.die()
    status, (_, answer) = running.end()
    assert (status, answer) == (9, "stock")
    assert (programs.state / "stock.stdin").read_bytes() == b"question"
