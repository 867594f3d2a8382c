"""One connection's bytes: exact, deadlock-free, bounded, and never silent for ever."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.errors import Cancelled, ConnectionLost
from hook.remote.stream import BUFFER_BYTES, STDERR_TAIL_BYTES, Stream
from hook.remote.watch import Deadline


class Peer:
    """The far ends of a stream's pipes."""

    def __init__(self) -> None:
        self.from_us, our_write = os.pipe()
        our_read, self.to_us = os.pipe()
        our_stderr, self.stderr = os.pipe()
        self.stream = Stream(our_read, our_write, our_stderr, "test")

    def close(self) -> None:
        for name in ("from_us", "to_us", "stderr"):
            self.shut(name)
        self.stream.close()

    def shut(self, name: str) -> None:
        fd = getattr(self, name)
        if fd >= 0:
            os.close(fd)
            setattr(self, name, -1)


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=20), st.lists(st.integers(1, 60), max_size=20))
def test_however_the_bytes_arrive_the_same_ones_are_read(pieces: list[bytes], sizes: list[int]) -> None:
    """Writes of the peer and reads of ours need not match."""
    peer = Peer()
    try:
        data = b"".join(pieces)
        for piece in pieces:
            os.write(peer.to_us, piece)
        peer.shut("to_us")
        read = b""
        for size in sizes:
            if len(read) + size > len(data):
                break
            read += peer.stream.read(size)
        assert read == data[: len(read)]
        rest = len(data) - len(read)
        assert peer.stream.read(rest) == data[len(read) :]
        with pytest.raises(ConnectionLost, match="end of file"):
            peer.stream.read(1)
    finally:
        peer.close()


def test_what_was_written_goes_out_before_we_wait_for_the_answer(peer: Peer) -> None:
    """A request that stays in our own buffer would never be answered."""
    peer.stream.write(b"question")

    def answer() -> None:
        assert os.read(peer.from_us, 100) == b"question"
        os.write(peer.to_us, b"answer")

    thread = threading.Thread(target=answer)
    thread.start()
    assert peer.stream.read(6) == b"answer"
    thread.join()


def test_a_peer_that_talks_while_we_upload_does_not_block_us(peer: Peer) -> None:
    """The daemon reports in the middle of an upload; if nobody read that, both sides would wait for ever."""
    peer.stream.silence_s = 60
    noise = b"n" * (BUFFER_BYTES - 1)
    upload = b"u" * (1 << 20)
    received = bytearray()

    def daemon() -> None:
        view = memoryview(noise)
        while view:
            view = view[os.write(peer.to_us, view) :]
        while len(received) < len(upload):
            received.extend(os.read(peer.from_us, 65536))

    thread = threading.Thread(target=daemon)
    thread.start()
    peer.stream.write(upload)
    peer.stream.flush()
    thread.join()
    assert bytes(received) == upload
    assert peer.stream.read(len(noise)) == noise


@pytest.mark.parametrize("writing", [False, True])
def test_silence_ends_in_an_error(peer: Peer, writing: bool) -> None:
    """Neither a peer that stops sending nor one that stops reading can hold a build for ever."""
    peer.stream.silence_s = 0.02
    with pytest.raises(ConnectionLost, match=r"no sign of life for 0\.02 s"):
        if writing:
            peer.stream.write(b"x" * (1 << 20))
        else:
            peer.stream.read(1)


def test_what_may_take_longer_is_waited_for_longer_and_nothing_else(peer: Peer) -> None:
    """Also when it ended badly: the limit of a build must not stay for the next question."""
    peer.stream.silence_s = 0.02
    with pytest.raises(ZeroDivisionError), peer.stream.patience(None):
        assert peer.stream.silence_s is None
        raise ZeroDivisionError
    assert peer.stream.silence_s == 0.02


def test_a_peer_that_closes_while_we_write_is_a_lost_connection(peer: Peer) -> None:
    """EPIPE is no stack trace, and reads like the end that a read would have met."""
    peer.shut("from_us")
    peer.stream.write(b"x")
    with pytest.raises(ConnectionLost, match="end of file"):
        peer.stream.flush()


def test_what_a_peer_said_before_it_went_is_read_though_our_words_do_not_reach_it(peer: Peer) -> None:
    """It may say why; whether it goes before or after our first words is a matter of chance."""
    os.write(peer.to_us, b"go away")
    peer.shut("from_us")
    peer.stream.write(b"hello")
    assert peer.stream.read(7) == b"go away"
    # Nor is the end of what it says waited for.
    with pytest.raises(ConnectionLost, match="unexpected end of file"):
        peer.stream.read(1)


def test_the_end_of_standard_error_is_kept(peer: Peer) -> None:
    """ssh explains itself there; a flood of it must not cost memory."""
    os.write(peer.stderr, b"first\r\n\nroot@b1: Permission denied (publickey).\n")
    assert peer.stream.stderr_lines() == ["first", "root@b1: Permission denied (publickey)."]
    for _ in range(20):
        os.write(peer.stderr, b"z" * 1000)
        peer.stream.stderr_lines()
    assert [len(line) for line in peer.stream.stderr_lines()] == [STDERR_TAIL_BYTES]


def test_standard_error_is_drained_while_we_wait(peer: Peer) -> None:
    """A child that blocks because its standard error is full would look like a dead machine."""
    peer.stream.silence_s = 60

    def child() -> None:
        for _ in range(100):
            os.write(peer.stderr, b"debug1: chatter\n" * 100)
        os.write(peer.to_us, b"ok")

    thread = threading.Thread(target=child)
    thread.start()
    assert peer.stream.read(2) == b"ok"
    thread.join()


def test_input_can_be_looked_for_without_waiting(peer: Peer) -> None:
    """Between two frames of an upload."""
    assert not peer.stream.has_input()
    os.write(peer.to_us, b"abc")
    assert peer.stream.has_input()
    assert peer.stream.peek() == b"abc"
    assert peer.stream.read(3) == b"abc"


def test_closing_works_when_nobody_takes_the_log(peer: Peer) -> None:
    """Nix has gone away, and the last words of a build are still on their way: no descriptor stays open for them."""
    log_read, log_write = os.pipe()
    peer.stream.copy_stderr(log_write)
    os.close(log_read)
    os.write(peer.stderr, b"last words\n")
    peer.stream.close()
    assert peer.stream.closed
    os.close(log_write)


def test_a_log_that_nobody_reads_does_not_keep_us_from_giving_up(peer: Peer) -> None:
    """Nix is stopped, and its hook is killed: the words stay here, and no descriptor stays open for them."""
    log_read, log_write = os.pipe2(os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(log_write, b"full\n" * 1000)
    hangup, other = socket.socketpair()
    with hangup:
        peer.stream.hangup_fd = hangup.fileno()
        peer.stream.copy_stderr(log_write)
        os.write(peer.stderr, b"a line of a log\n")
        other.close()
        with pytest.raises(Cancelled):
            peer.stream.read(1)
        os.write(peer.stderr, b"last words\n")
        peer.stream.close()
    assert peer.stream.closed
    os.close(log_read)
    os.close(log_write)


@pytest.fixture(params=["output", "stderr"])
def flood(request: pytest.FixtureRequest) -> Iterator[Stream]:
    """A peer that talks without a pause, in one way or the other: every read finds something."""
    silence, ours = os.pipe()
    zeros = os.open("/dev/zero", os.O_RDONLY)
    stream = Stream(*((zeros, ours, silence) if request.param == "output" else (silence, ours, zeros)), "test")
    yield stream
    stream.close()


def drink(stream: Stream) -> None:
    while True:
        stream.consume(len(stream.available()))


def test_a_peer_that_never_pauses_does_not_keep_us_from_giving_up(flood: Stream) -> None:
    """There is always something to read, so we never wait; Nix may have gone away long ago."""
    hangup, other = socket.socketpair()
    with hangup:
        flood.hangup_fd = hangup.fileno()
        other.close()
        with pytest.raises(Cancelled):
            drink(flood)


def test_a_deadline_holds_whatever_the_peer_says(flood: Stream) -> None:
    flood.watch = Deadline(0.05)
    with pytest.raises(ConnectionLost, match=r"not ready after 0\.05 s"):
        drink(flood)


def test_last_words_without_an_end_are_not_waited_for(peer: Peer) -> None:
    """Each of them comes before the time allowed since the one before is over."""
    stop = threading.Event()
    os.write(peer.stderr, b"soon\n")

    def murmur() -> None:
        while not stop.wait(0.01):
            os.write(peer.stderr, b"soon\n")

    thread = threading.Thread(target=murmur)
    thread.start()
    try:
        assert set(peer.stream.stderr_lines(settle_s=0.2)) == {"soon"}
    finally:
        stop.set()
        thread.join()
