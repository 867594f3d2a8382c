"""NAR dump and restore next to nix-store, on a memory file system.

`--dump` does what an upload does, `nix-hash` (dump and SHA-256) the same as we.  `--restore` does less: no hash, no
canonical metadata.  `--import` (restore, SHA-256, canonical metadata) does the same and writes a row.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hook.store.nar import Dumper, Restorer, nar_hash

BUFFER_BYTES = 128 << 10
STORE_OPTIONS = ["--option", "build-users-group", "", "--option", "substituters", ""]

SMALL = ("small", 9)
LARGE = ("large", 5)


def make_small(path: Path) -> None:
    """20,000 files of 3 kB in 100 directories."""
    path.mkdir()
    for directory in range(100):
        (path / str(directory)).mkdir()
        for file in range(200):
            (path / str(directory) / f"file-{file}.txt").write_bytes(os.urandom(3000))


def make_large(path: Path) -> None:
    """One file of 1 GiB."""
    piece = os.urandom(1 << 20)
    with path.open("wb") as file:
        for _ in range(1024):
            file.write(piece)


class Sample:
    """A tree, its NAR, its export by stock, and places to restore to."""

    def __init__(self, top: Path, kind: str) -> None:
        self.tree = top / f"{kind}-sample"
        {"small": make_small, "large": make_large}[kind](self.tree)
        self.nar = top / "nar"
        with self.nar.open("wb") as out:
            subprocess.run(["nix-store", "--dump", self.tree], stdout=out, check=True)
        self.copy = top / "copy"
        self.store = top / "store"
        self.export = top / "export"
        path = self._store("--add", self.tree)
        with self.export.open("wb") as out:
            self._store("--export", path, stdout=out)

    def clean(self) -> None:
        """Nothing is there that a restore or import would create; the database of the store is."""
        for path in (self.copy, self.store):
            if path.is_file():
                path.unlink()
            else:
                shutil.rmtree(path, ignore_errors=True)
        self._store("--init")

    def stock_import(self) -> None:
        with self.export.open("rb") as source:
            self._store("--import", stdin=source)

    def _store(self, *arguments: str | Path, **options) -> str:
        options = {"stdout": subprocess.PIPE} | options
        command = ["nix-store", "--store", self.store, *STORE_OPTIONS, *arguments]
        return (subprocess.run(command, check=True, text=True, **options).stdout or "").strip()


@pytest.fixture(scope="module", params=[SMALL, LARGE], ids=lambda param: param[0])
def sample(request) -> Iterator[tuple[str, int, Sample]]:
    kind, rounds = request.param
    top = Path("/dev/shm/nix-ferry-bench")
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    try:
        yield kind, rounds, Sample(top, kind)
    finally:
        shutil.rmtree(top)


def dump(path: Path, out_fd: int) -> None:
    buffer = bytearray(BUFFER_BYTES)
    view = memoryview(buffer)
    with Dumper(str(path), hashing=False) as dumper:
        while size := dumper.read_into(buffer):
            assert os.write(out_fd, view[:size]) == size


def hash_of(path: Path) -> bytes:
    return nar_hash(str(path), bytearray(BUFFER_BYTES))


def restore(nar: Path, dest: Path) -> bytes:
    buffer = bytearray(BUFFER_BYTES)
    view = memoryview(buffer)
    with nar.open("rb", buffering=0) as source, Restorer(str(dest)) as restorer:
        while not restorer.done:
            restorer.feed(view[: source.readinto(buffer)])
        return restorer.digest()


def through_pipe(write) -> None:
    """To a process that throws it away, as ssh would be there to take it; the pipe is as large as any user may have."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pipesize=1 << 20) as sink:
        write(sink.stdin.fileno())
        sink.stdin.close()
    assert sink.returncode == 0


def test_dump(sample, compare):
    kind, rounds, at = sample
    compare(
        f"nar-dump-{kind}",
        {
            "nix-store --dump": lambda: through_pipe(
                lambda fd: subprocess.run(["nix-store", "--dump", at.tree], stdout=fd, check=True)
            ),
            "ferry": lambda: through_pipe(lambda fd: dump(at.tree, fd)),
        },
        rounds,
    )


def test_dump_and_hash(sample, compare):
    kind, rounds, at = sample
    hash_it = ["nix-hash", "--type", "sha256", at.tree]
    assert subprocess.check_output(hash_it, text=True).strip() == hash_of(at.tree).hex()
    compare(
        f"nar-hash-{kind}",
        {"nix-hash": lambda: subprocess.check_output(hash_it), "ferry": lambda: hash_of(at.tree)},
        rounds,
    )


def test_restore(sample, compare):
    kind, rounds, at = sample

    def stock() -> None:
        with at.nar.open("rb") as source:
            subprocess.run(["nix-store", "--restore", at.copy], stdin=source, check=True)

    compare(
        f"nar-restore-{kind}",
        {"nix-store --restore": stock, "ferry": lambda: restore(at.nar, at.copy)},
        rounds,
        before=at.clean,
    )
    assert hash_of(at.copy) == hash_of(at.tree)


def test_restore_hash_and_canonicalise(sample, compare):
    kind, rounds, at = sample
    compare(
        f"nar-import-{kind}",
        {"nix-store --import": at.stock_import, "ferry": lambda: restore(at.nar, at.copy)},
        rounds,
        before=at.clean,
    )
