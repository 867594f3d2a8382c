"""The broker's log: where it is, who may read it, and that it stays small."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hook.broker.log import log, open_log, rotate_log
from tests.leaks import descriptors

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (.*)\n")


@pytest.fixture(autouse=True)
def standard_error() -> Iterator[None]:
    """What it was before, again after the test."""
    kept = os.dup(2)
    yield
    os.dup2(kept, 2)
    os.close(kept)


def texts(path: Path) -> list[str]:
    return LINE.findall(path.read_text())


def test_lines_have_a_time_and_are_for_us_alone(tmp_path: Path) -> None:
    """The log may name store paths and hosts."""
    open_log(str(tmp_path))
    log("listening")
    log("leaving")
    assert texts(tmp_path / "broker.log") == ["listening", "leaving"]
    assert (tmp_path / "broker.log").stat().st_mode & 0o777 == 0o600


def test_the_next_broker_goes_on_in_the_same_file(tmp_path: Path) -> None:
    """What the last one said explains why there is a new one."""
    for text in ("first", "second"):
        open_log(str(tmp_path))
        log(text)
    assert texts(tmp_path / "broker.log") == ["first", "second"]


def test_a_large_log_is_set_aside(tmp_path: Path) -> None:
    """At the start and in between; one older file is kept."""
    for text in ("first", "second", "third"):
        open_log(str(tmp_path), log_bytes=30)
        log(text + " and more")
    assert texts(tmp_path / "broker.log") == ["third and more"]
    assert texts(tmp_path / "broker.log.1") == ["second and more"]
    rotate_log(str(tmp_path), log_bytes=30)
    log("fourth")
    rotate_log(str(tmp_path), log_bytes=30)
    assert texts(tmp_path / "broker.log") == ["fourth"]
    assert texts(tmp_path / "broker.log.1") == ["third and more"]


def test_a_full_disk_is_survived() -> None:
    """Builds go on without a log."""
    with open("/dev/full", "wb", buffering=0) as full:
        os.dup2(full.fileno(), 2)
    log("lost")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """Nothing but our own log is written to."""
    (tmp_path / "broker.log").symlink_to("elsewhere")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        open_log(str(tmp_path))
    assert not (tmp_path / "elsewhere").exists()


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    """Rotation goes on for the life of the broker."""
    before = descriptors()
    for _ in range(3):
        open_log(str(tmp_path), log_bytes=-1)
    # Some lead to the log now.
    assert descriptors().keys() <= before.keys()


def test_what_a_machine_said_cannot_drive_a_terminal(tmp_path: Path) -> None:
    """An administrator reads this file as root, with nothing between it and the terminal."""
    open_log(str(tmp_path))
    log("a \x1b]0;title\x07 \udcff b\nnext\rover")
    assert (tmp_path / "broker.log").read_text().endswith(" a \\x1b]0;title\\x07 \\udcff b\nnext\nover\n")
