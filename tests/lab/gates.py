"""Builds that last exactly as long as a test wants: graphs/gated.nix, and the gates at which they wait."""

import os
from collections.abc import Sequence

from tests.lab.host import Host, wait_until
from tests.lab.lab import GRAPHS

NAMES = tuple("abcdefgh")
DIRECTORY = "/srv/gates"


def build_gated(*names: str, seed: str, options: Sequence[str] = ("-j0",)) -> list[str]:
    """Return the command that builds some of gated.nix and prints their outputs."""
    chosen = [word for name in names for word in ("-A", name)]
    return ["nix-build", f"{GRAPHS}/gated.nix", *chosen, "--argstr", "seed", seed, "--no-out-link", *options]


class Gates:
    """The gates on `builder`, all closed, and the record of what was built there."""

    def __init__(self, builder: Host) -> None:
        self._directory = builder.path(DIRECTORY)
        self._store = builder.path("/nix/store")
        builder.run(["rm", "-rf", DIRECTORY])
        builder.run(["mkdir", DIRECTORY])
        for name in NAMES:
            os.mkfifo(self._directory / name)

    def inputs(self) -> int:
        """Return how many builds have their inputs there."""
        # Beside one that is on its way lies a lock file.
        return len([path for path in self._store.glob("*-input-of-*") if path.suffix != ".lock"])

    def log(self) -> list[str]:
        """Return `+ name` for each build that started and `- name` for each that went through its gate, in order."""
        log = self._directory / "log"
        return log.read_text().splitlines() if log.exists() else []

    def wait_for(self, line: str, times: int = 1) -> None:
        """Wait until the log has a line so many times."""
        wait_until(lambda: self.log().count(line) >= times, f"{line!r} in {self.log()}")

    def wait_for_start(self, count: int) -> None:
        """Wait until so many builds have started, whatever became of them."""
        wait_until(lambda: sum(line.startswith("+") for line in self.log()) >= count, f"{count} starts in {self.log()}")

    def wait_inside(self, count: int) -> None:
        """Wait until so many builds are at their gates."""
        wait_until(lambda: len(self.inside()) >= count, f"{count} builds at once")

    def let_through(self, name: str, word: str = "done") -> None:
        """Let the build `name` end, which has started; it writes `word`."""
        (self._directory / name).write_text(f"{word}\n")

    def leave_open(self, name: str, word: str = "done") -> None:
        """Let every build `name` end that starts from now on."""
        (self._directory / name).unlink()
        self.let_through(name, word)

    def inside(self) -> list[str]:
        """Return the builds that wait at their gates, in the order of their start."""
        log = self.log()
        return [line[2:] for line in log if line.startswith("+") and f"- {line[2:]}" not in log]

    def most_at_once(self) -> int:
        """Return the greatest number of builds between start and gate."""
        running = most = 0
        for line in self.log():
            running += 1 if line.startswith("+") else -1
            most = max(most, running)
        return most
