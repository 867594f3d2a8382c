"""Very many builds through one broker, and what it holds after each part of them."""

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hook.broker.client import overview_of
from hook.values.derivation import DerivationOutput, format_derivation
from tests.fakes.bench import HOOK, Bench
from tests.lab.container import wait_until

SLOTS = 4
CALLERS = 2 * SLOTS
"""More than slots, so that all slots and the queue are in use from the first part on."""

WARM_DESCRIPTORS = 3 * SLOTS
"""Of connections that are kept: there may be as many as slots, sooner or later."""

THREADS_AT_REST = 2
"""One that waits for hooks, and one that tidies up."""


@dataclass(frozen=True)
class Sample:
    """What a process holds, and how many files there are in its directories."""

    resident_kib: int
    threads: int
    descriptors: int
    sockets: int
    files: int

    @classmethod
    def of(cls, pid: int, *directories: Path) -> "Sample":
        lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        status = {words[0]: words[1] for words in lines if len(words) > 1}
        held = []
        for fd in os.listdir(f"/proc/{pid}/fd"):
            # One that was closed meanwhile is not held.
            with suppress(FileNotFoundError):
                held.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        sockets = sum(name.startswith("socket:") for name in held)
        files = sum(len(names) for directory in directories for _, _, names in os.walk(directory))
        return cls(int(status["VmRSS:"]), int(status["Threads:"]), len(held), sockets, files)


class Soak:
    """Builds on `bench`, each with the real executable, an input to send, a log and an output to fetch."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        temporary = bench.hook_state / "tmp"
        temporary.mkdir()
        self._environ = bench.environ() | {"TMPDIR": str(temporary)}
        self._machine = bench.machine("careless").replace(" - 2 ", f" - {SLOTS} ")
        self._outputs = [f"/nix/store/{number:032}-soak" for number in range(CALLERS)]
        self._drvs = [
            bench.store.add(self._derivation(output), "soak.drv", [bench.store.source]) for output in self._outputs
        ]

    def _derivation(self, output: str) -> bytes:
        outputs = (("out", DerivationOutput(output)),)
        return format_derivation(replace(self._bench.store.derivation, outputs=outputs))

    def run(self, builds: int, parts: int) -> Iterator[Sample]:
        """Make so many builds, and tell after each part of them what the broker holds, all of it at rest."""
        with ThreadPoolExecutor(CALLERS) as callers:
            for _ in range(parts):
                list(callers.map(self._build, range(CALLERS), [builds // parts // CALLERS] * CALLERS))
                yield self._at_rest()

    def _at_rest(self) -> Sample:
        broker = self._bench.broker_pid()
        assert broker is not None
        # Asked, it writes its record; otherwise it depends on the clock whether these files are there.
        assert overview_of(str(self._bench.hook_state / "nix-ferry"))
        samples: list[Sample] = []

        def at_rest() -> bool:
            samples.append(Sample.of(broker, self._bench.hook_state, self._bench.store.state))
            return samples[-1].threads <= THREADS_AT_REST

        # Nix is answered before the thread has ended.
        wait_until(at_rest, "the end of the last thread")
        return samples[-1]

    def _build(self, number: int, times: int) -> None:
        bench, output = self._bench, self._outputs[number]
        data = bench.preamble([self._machine]) + bench.request(self._drvs[number]) + bench.job(["out"])
        for _ in range(times):
            done = subprocess.run(
                [HOOK, "3"], check=False, input=data, capture_output=True, env=self._environ, timeout=60
            )
            assert done.returncode == 0, done.stderr.decode()
            bench.store.delete(output)
