"""Ask the stock hook of a lab host what it makes of `builders`, without letting it reach a machine.

The hook's PATH is empty, or has an ssh that only tells how it was called, so every connection fails at once.  What the
hook prints and which lock files it makes tell how it read the text and whom it would have chosen.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from hook.front.front import format_request, format_settings
from hook.front.request import Request
from hook.values.release import Release
from hook.values.settings import Settings
from tests.lab.host import Host

STORE = "/tmp/stock-hook"
CURRENT_LOAD = f"{STORE}/nix/var/nix/current-load"
DRV_PATH = f"/nix/store/{'0' * 32}-a.drv"
SYSTEM = "x86_64-linux"


@dataclass(frozen=True)
class Answered:
    """What the hook did."""

    status: int
    lines: list[str]
    locks: frozenset[str]

    @property
    def answers(self) -> list[str]:
        return [line for line in self.lines if line.startswith("# ")]

    @property
    def messages(self) -> list[tuple[int, str]]:
        events = [json.loads(line[5:]) for line in self.lines if line.startswith("@nix ")]
        return [(event["level"], event["msg"]) for event in events if event["action"] == "msg"]

    @property
    def tried(self) -> list[str]:
        """The machines it chose one after another, by the text it calls them."""
        return [text.split("'")[1] for _, text in self.messages if "cannot build on '" in text]

    @property
    def stems(self) -> frozenset[str]:
        """The lock stems of the machines it considered."""
        return frozenset(name.rpartition("-")[0] for name in self.locks if name != "main-lock")


def release_of_host(host: Host) -> Release:
    """The release of the Nix that is installed there."""
    major, minor, _ = host.nix_version().split(".")
    return int(major), int(minor)


def fresh_state(host: Host) -> Path:
    """Empty the state directory that `ask` uses, and return it as seen from outside."""
    shutil.rmtree(host.path(STORE), ignore_errors=True)
    directory = host.path(CURRENT_LOAD)
    directory.mkdir(parents=True)
    return directory.parent


def ssh_arguments(host: Host, address: str) -> list[str]:
    """The arguments with which the stock hook runs ssh for a machine at `address`."""
    fresh_state(host)
    # It is also run to see whether there is a connection to be shared.
    check = 'case " $* " in *" -O check "*) exit 255;; esac'
    script = f"#!/bin/sh\n{check}\nprintf '%s\\n' \"$@\" > {STORE}/argv\n"
    host.write_file(f"{STORE}/bin/ssh", script, 0o755)
    ask(host, address, path=f"{STORE}/bin")
    return host.read_file(f"{STORE}/argv").splitlines()


def ask(host: Host, builders: str, *requests: Request, path: str = "/nonexistent", **settings: str) -> Answered:
    """Run the stock hook on the given requests, by default one without features; `path` is where it finds ssh."""
    values = {"builders": builders, "store": STORE, "system": SYSTEM, "max-jobs": "0"}
    values |= {name.replace("_", "-"): value for name, value in settings.items()}
    data = format_settings(Settings(values))
    for request in requests or [Request(SYSTEM, DRV_PATH, frozenset(), False)]:
        data += format_request(request)
    done = host.run(
        ["/bin/sh", "-c", "exec /usr/libexec/nix/build-remote 5 4>/dev/null 5</dev/null"],
        env={"PATH": path, "NIX_CONF_DIR": STORE},
        input=data.decode(errors="surrogateescape"),
        check=False,
    )
    locks = frozenset(file.name for file in host.path(CURRENT_LOAD).iterdir())
    return Answered(done.returncode, done.stderr.splitlines(), locks)
