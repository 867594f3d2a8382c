"""Two files that outlive a broker: builds that are over, and decisions; a line of JSON each, bounded in size.

Several processes may write at once: each writes whole lines with one system call.  A line that was cut off, by a full
disk say, costs its reader that line.  Tested in test_record.py.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import UnionType
from typing import Any

RECORD_BYTES = 4 << 20
"""A file that would grow larger than this is set aside as `NAME.1`, in place of the one before."""

PIECE_BYTES = 256 << 10
"""How much is written with one system call."""


@dataclass(frozen=True, slots=True)
class Record:
    """A file called `name` in whatever directory."""

    name: str
    keys: Mapping[str, type | UnionType] = field(default_factory=dict)
    """What an entry has at least, and of which type; whatever has not was not written by us."""
    file_bytes: int = RECORD_BYTES

    def append(self, directory: str, entries: Iterable[Mapping[str, object]]) -> None:
        """Add entries; a full disk is no reason to stop working.

        Neither file is larger than `file_bytes` afterwards: an entry that does not fit into an empty one is lost.
        """
        path = os.path.join(directory, self.name)
        with suppress(OSError):
            for data in self._pieces(entries):
                fd = open_bounded(path, self.file_bytes - len(data))
                try:
                    os.write(fd, data)
                finally:
                    os.close(fd)

    def _pieces(self, entries: Iterable[Mapping[str, object]]) -> Iterator[bytes]:
        """Whole lines, as many at a time as are worth a system call."""
        most = min(PIECE_BYTES, self.file_bytes)
        piece = bytearray()
        for entry in entries:
            line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
            if piece and len(piece) + len(line) > most:
                yield bytes(piece)
                piece.clear()
            if len(line) <= self.file_bytes:
                piece += line
        if piece:
            yield bytes(piece)

    def read(self, directory: str) -> Iterator[dict[str, Any]]:
        """All entries that are kept, the oldest first; OSError if they cannot be read."""
        path = os.path.join(directory, self.name)
        for each in (path + ".1", path):
            with suppress(FileNotFoundError), open(each, "rb") as file:
                for line in file:
                    with suppress(ValueError, RecursionError):
                        entry = json.loads(line)
                        if isinstance(entry, dict) and self._is_ours(entry):
                            yield entry

    def _is_ours(self, entry: Mapping[str, object]) -> bool:
        return all(isinstance(entry.get(key), kind) for key, kind in self.keys.items())


BUILDS = Record(
    "builds.jsonl",
    {
        "derivation": str,
        "machine": str,
        "outcome": str,
        "detail": str,
        "ended": int | float,
        "seconds": dict,
        "moved_from": list,
    },
)
DECISIONS = Record("decisions.jsonl", {"at": int | float, "derivation": str, "answer": str, "machines": list})


def open_bounded(path: str, most_bytes: int) -> int:
    """Open a file of ours to append to it; one that has grown too large is set aside as `path.1` before."""
    fd = _open(path)
    if os.fstat(fd).st_size > most_bytes:
        os.close(fd)
        os.replace(path, path + ".1")
        fd = _open(path)
    return fd


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
