"""Two files that outlive a broker: builds that are over, and decisions; a line of JSON each, bounded in size.

Several processes may write at once: each writes whole lines with one system call.  A line that was cut off, by a full
disk say, costs its reader that line.  Tested in test_record.py.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hook.journal import open_bounded

RECORD_BYTES = 4 << 20
"""A file larger than this is set aside as `NAME.1`, in place of the one before."""


@dataclass(frozen=True, slots=True)
class Record:
    """A file called `name` in whatever directory."""

    name: str
    file_bytes: int = RECORD_BYTES

    def append(self, directory: str, entries: Sequence[Mapping[str, object]]) -> None:
        """Add entries; a full disk is no reason to stop working."""
        if not entries:
            return
        data = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries).encode()
        with suppress(OSError):
            fd = open_bounded(os.path.join(directory, self.name), self.file_bytes)
            try:
                os.write(fd, data)
            finally:
                os.close(fd)

    def read(self, directory: str) -> Iterator[dict[str, Any]]:
        """All entries that are kept, the oldest first; OSError if they cannot be read."""
        path = os.path.join(directory, self.name)
        for each in (path + ".1", path):
            with suppress(FileNotFoundError), open(each, "rb") as file:
                for line in file:
                    with suppress(ValueError):
                        yield json.loads(line)


BUILDS = Record("builds.jsonl")
DECISIONS = Record("decisions.jsonl")
