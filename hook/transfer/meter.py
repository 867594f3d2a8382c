"""How much the builds of one conversation have copied, for whoever tells of it; tested in test_upload.py."""

from dataclasses import dataclass


@dataclass(slots=True)
class Meter:
    """Bytes of NARs, either way, as they are on their way; written by one thread."""

    copied_bytes: int = 0
