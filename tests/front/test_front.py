"""Nix's side of the pipe, with bytes recorded from three Nix releases."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from hook.errors import RequestError
from hook.front.caller import Caller, Word
from hook.front.front import LENGTH, PLACE, Front, Preamble, format_request, format_settings
from hook.front.request import Request
from hook.values.settings import Settings
from tests import VECTORS
from tests.fakes.shim import writes_to

RECORDED = VECTORS / "hook"
RELEASES = ["2.8", "2.26", "2.34", "2.35"]


@contextmanager
def front_on(data: bytes) -> Iterator[tuple[Front, int]]:
    """A front that reads `data` and then end of file; yields it with the read end of its replies."""
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()

    def send() -> None:
        with open(in_write, "wb", buffering=0) as pipe, suppress(BrokenPipeError):
            pipe.write(data)

    # A pipe may hold less than that.
    writer = threading.Thread(target=send)
    writer.start()
    try:
        yield Front(Caller(in_read, -1, -1, "3", {}, os.getpid(), tell=writes_to(out_write))), out_read
    finally:
        for fd in (in_read, out_read, out_write):
            os.close(fd)
        writer.join()


@pytest.mark.parametrize("release", RELEASES)
def test_a_recorded_conversation_is_read_to_its_end(release: str) -> None:
    """Settings, one request, inputs and wanted outputs as Nix really sends them."""
    with front_on((RECORDED / f"{release}-ok.stdin").read_bytes()) as (front, _):
        settings = front.read_settings()
        assert settings.text("system") == "x86_64-linux"
        assert "remote-program=" in settings.text("builders")
        request = front.read_request()
        assert request.drv_path.endswith(("-tiny.drv", "-rec-ok.drv"))
        assert (request.system, request.am_willing, request.features) == ("x86_64-linux", False, frozenset())
        job = front.read_job()
        assert [path[-10:] for path in job.inputs] == ["-input.txt"]
        assert job.wanted == {"dev", "out"}
        assert front.at_end()


@pytest.mark.parametrize("release", RELEASES)
def test_settings_that_come_again_are_not_parsed_again(release: str) -> None:
    """What follows them is read as ever; other settings are other settings, also after these."""
    recorded, last = (RECORDED / f"{release}-ok.stdin").read_bytes(), Preamble()
    with front_on(recorded) as (front, _):
        settings, request = front.read_settings(last), front.read_request()
    other = settings.replace(max_jobs="17")
    changed = format_settings(other) + format_request(request)
    before = settings
    for data, expected, known in ((recorded, settings, True), (changed, other, False), (recorded, settings, False)):
        with front_on(data) as (front, _):
            found = front.read_settings(last)
            assert (found == expected, found is before) == (True, known)
            assert front.read_request() == request
            before = found


@pytest.mark.parametrize("release", RELEASES)
def test_a_postponed_request_comes_again(release: str) -> None:
    """The same process is asked until it accepts."""
    with front_on((RECORDED / f"{release}-postpone-2.stdin").read_bytes()) as (front, _):
        front.read_settings()
        first = front.read_request()
        assert front.read_request() == first


@pytest.mark.parametrize("release", RELEASES)
def test_what_is_handed_to_the_stock_hook_is_what_nix_sent(release: str) -> None:
    """Re-encoded settings and request equal the recorded bytes, so the stock hook cannot tell the difference."""
    data = (RECORDED / f"{release}-ok.stdin").read_bytes()
    with front_on(data) as (front, _):
        settings = front.read_settings()
        assert data.startswith(format_settings(settings) + format_request(front.read_request()))


@pytest.mark.parametrize("known", [False, True])
def test_the_shim_is_told_what_it_need_not_keep(known: bool) -> None:
    """The settings stay, as they are to be for the stock hook; of requests only the one without an answer does."""
    settings, request = Settings({"a": "1"}), Request("s", "/nix/store/x.drv", frozenset({"kvm"}), am_willing=True)
    other = replace(request, drv_path="/nix/store/longer.drv")
    parts = format_settings(settings), format_request(request), format_request(other)
    last = Preamble()
    if known:
        last.keep(settings)
    told: list[tuple[Word, bytes]] = []
    with front_on(b"".join(parts)) as (front, _):
        front.caller.tell = lambda word, data: told.append((word, data))
        front.read_settings(last)
        front.read_request()
        front.decline()
        front.keep_settings(settings.replace(b="2"))
        front.read_request()
        front.postpone()
    sizes = [len(part) for part in parts]
    kept = format_settings(Settings({"a": "1", "b": "2"}))
    assert told == [
        (Word.REPLY, PLACE.pack(sizes[0], sizes[1]) + b"# decline\n"),
        (Word.KEEP, LENGTH.pack(sizes[0]) + kept),
        (Word.REPLY, PLACE.pack(len(kept), sizes[2]) + b"# postpone\n"),
    ]


def test_every_truncation_is_an_error_and_never_a_request() -> None:
    """Closed standard input in every state: whatever is missing, nothing is made up."""
    settings = Settings({"a": "1"})
    request = Request(system="s", drv_path="/nix/store/x.drv", features=frozenset({"kvm"}), am_willing=True)
    data = format_settings(settings) + format_request(request)
    for cut in range(1, len(data)):
        with front_on(data[:cut]) as (front, _), pytest.raises(RequestError, match="ends in the middle"):
            front.read_settings()
            front.read_request()


def test_an_unknown_request_is_named() -> None:
    """A future Nix may ask something else; its user should learn what."""
    data = format_settings(Settings({})) + b"\x05\0\0\0\0\0\0\0train\0\0\0"
    with front_on(data) as (front, _):
        front.read_settings()
        with pytest.raises(RequestError, match="unknown request 'train'"):
            front.read_request()


def test_accept_and_machine_arrive_in_one_piece() -> None:
    """The line after `# accept` is read raw: a log line in between would become the machine's name."""
    with front_on(b"") as (front, replies):
        front.accept("ssh-ng://b1")
        assert os.read(replies, 1000) == b"# accept\nssh-ng://b1\n"


@pytest.mark.parametrize(
    ("method", "expected"),
    [("decline", b"# decline\n"), ("decline_permanently", b"# decline-permanently\n"), ("postpone", b"# postpone\n")],
)
def test_replies_are_exactly_the_words_nix_knows(method: str, expected: bytes) -> None:
    """Any other line that starts with `# ` aborts the user's command."""
    with front_on(b"") as (front, replies):
        getattr(front, method)()
        assert os.read(replies, 1000) == expected
