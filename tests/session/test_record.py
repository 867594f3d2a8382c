"""The files that outlive a broker: read as they were written, bounded, and for us alone."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hook.session.record import Record
from tests.leaks import no_leaks

RECORD = Record("things.jsonl", file_bytes=100)


def numbers(directory: Path) -> list[int]:
    return [entry["n"] for entry in RECORD.read(str(directory))]


def test_what_is_written_is_read_in_order(tmp_path: Path) -> None:
    """Also by another process, whenever each was written."""
    RECORD.append(str(tmp_path), [{"n": 1, "text": "ü\udcff\n"}, {"n": 2}])
    RECORD.append(str(tmp_path), [])
    RECORD.append(str(tmp_path), [{"n": 3}])
    assert numbers(tmp_path) == [1, 2, 3]
    assert next(RECORD.read(str(tmp_path)))["text"] == "ü\udcff\n"
    assert (tmp_path / "things.jsonl").stat().st_mode & 0o777 == 0o600


def test_nothing_was_written_yet(tmp_path: Path) -> None:
    """A new installation has no history, which is no error."""
    assert numbers(tmp_path / "nowhere") == []


def test_the_files_are_bounded(tmp_path: Path) -> None:
    """A file that is too large is set aside once; the one before is gone."""
    for n in range(1000):
        RECORD.append(str(tmp_path), [{"n": n}])
    kept = numbers(tmp_path)
    assert kept == list(range(kept[0], 1000))
    assert 10 < len(kept) < 50
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 300


def test_neither_file_is_ever_larger_than_its_bound(tmp_path: Path) -> None:
    """However much is written at once; what fits into no file is lost, and nothing else."""
    for n in range(0, 100, 20):
        RECORD.append(str(tmp_path), [{"n": each, "text": "x" * (each % 7 * 20)} for each in range(n, n + 20)])
        assert all(file.stat().st_size <= RECORD.file_bytes for file in tmp_path.iterdir())
    kept = numbers(tmp_path)
    assert kept == [n for n in range(kept[0], 100) if n % 7 < 5]
    assert len(kept) > 1


@contextmanager
def full_disk(most_bytes: int) -> Iterator[None]:
    """No file of ours can grow beyond that."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_costs_what_did_not_fit(tmp_path: Path) -> None:
    """The line that was cut off is left out, and what comes later is kept."""
    with full_disk(20):
        RECORD.append(str(tmp_path), [{"n": 1}, {"n": 2}, {"n": 3}])
        RECORD.append(str(tmp_path), [{"n": 4}])
    assert (tmp_path / "things.jsonl").stat().st_size == 20
    RECORD.append(str(tmp_path), [{"n": 5}])
    RECORD.append(str(tmp_path), [{"n": 6}])
    assert numbers(tmp_path) == [1, 2, 6]


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    """A broker writes for as long as it lives."""
    with no_leaks():
        for _ in range(30):
            RECORD.append(str(tmp_path), [{"n": 1}])


def test_what_we_have_not_written_is_not_read(tmp_path: Path) -> None:
    """Whatever it is: whoever asks can rely on the keys."""
    ours = b'{"n":1,"text":"a"}\n'
    others = b'5\n[]\nnull\n{}\n{"n":"1","text":"a"}\n{"n":1}\n' + b"[" * 100_000 + b"\n\xff\n"
    (tmp_path / "typed.jsonl").write_bytes(ours + others + ours)
    typed = Record("typed.jsonl", {"n": int | float, "text": str})
    assert list(typed.read(str(tmp_path))) == [{"n": 1, "text": "a"}] * 2
