"""What `nix-ferry doctor` says of one thing that it looked at.  Tested in cli/test_command.py."""

from dataclasses import asdict, dataclass
from enum import Enum


class Level(Enum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `fix` is what its reader can do.

    `subject` is a part of this host, or a machine, which has several: then `check` says which.
    """

    subject: str
    level: Level
    text: str
    fix: str = ""
    check: str = ""

    @property
    def title(self) -> str:
        """What was looked at."""
        return f"{self.subject} {self.check}".rstrip()

    def to_json(self) -> dict[str, object]:
        """For programs."""
        return {**asdict(self), "level": self.level.value}
