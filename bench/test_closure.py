"""From `# accept` to the start of the build when the machine has all of a large closure, next to stock.

Two hosts with Nix 2.34 and a real sshd between them; 2,000 inputs.  Without a broker all of them are asked about; a
broker knows from the build before that they are there.  What the machine itself needs is measured, too: the time from
the one request for a build to the start of that build, over a connection that waits for it.  Every run builds another
derivation.
"""

import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bench.conftest import Compare
from hook.front.front import format_request, format_settings
from hook.front.request import Request
from hook.protocol.wire import Writer
from hook.values.settings import Settings
from tests.lab import install
from tests.lab.host import Host
from tests.lab.lab import Lab

SUITE = "sid"
SYSTEM = "x86_64-linux"
PATHS = 2000
ROUNDS = 20
EXPRESSION = f"""
let
  inputs = builtins.genList (i: builtins.toFile "input-${{toString i}}" "") {PATHS};
  top = derivation {{
    name = "top";
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ (builtins.toFile "builder" "while read -r line; do echo $line; done < $listPath > $out") ];
    passAsFile = [ "list" ];
    list = builtins.concatStringsSep "\\n" inputs + "\\n";
  }};
in {{
  inherit top;
  users = builtins.genList (i: derivation {{
    name = "user-${{toString i}}";
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" "echo ${{top}} > $out" ];
  }}) {4 * ROUNDS + 8};
}}
"""
REQUEST, JOB = "/run/request", "/run/job"
MACHINE = "/run/machine.py"
SIDES = {
    "stock": "/usr/bin/nix __build-remote 4",
    "nix-ferry without a broker": f"env NIX_FERRY_STANDALONE=1 {install.HOOK} 4",
    "the machine alone": f"python3 {MACHINE} {{builder}}",
    "nix-ferry": f"{install.HOOK} 4",
}

DRIVER = f"""
import json, subprocess, sys
hooks = {{}}
for line in sys.stdin:
    side, _, command = line.strip().partition(": ")
    if command:
        hooks[side] = hook = subprocess.Popen(command.split(), stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        hook.stdin.write(open("{REQUEST}", "rb").read())
        hook.stdin.flush()
        while hook.stderr.readline() != b"# accept\\n":
            pass
    else:
        hook = hooks.pop(side)
        hook.stdin.write(open("{JOB}", "rb").read())
        hook.stdin.close()
        for event in hook.stderr:
            if event.startswith(b"@nix ") and json.loads(event[5:]).get("type") == 105:
                break
    print("done", flush=True)
    if not command:
        hook.stderr.read()
        assert hook.wait() == 0
"""
"""Runs inside the client and plays Nix's part: starts a hook and waits for its accept, or gives it the rest of its job
and waits for the build to start."""

ASK_MACHINE = f"""
import os, subprocess, sys
sys.path[0] = "{install.PREFIX}/lib"
from hook.front.caller import Caller
from hook.front.front import Front
from hook.protocol.worker import WorkerClient
from hook.values.derivation import parse_derivation
from hook.remote.stream import Stream

caller = Caller(0, 2, 4, "4", os.environ, os.getppid(), tell=lambda word, data: os.write(2, data))
front = Front(caller)
front.read_settings()
request = front.read_request()
ssh = subprocess.Popen(["ssh", sys.argv[1], "nix-daemon", "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
stream, ids = Stream(ssh.stdout.fileno(), ssh.stdin.fileno(), None, "machine"), {{}}
client = WorkerClient(stream, lambda event: front.log.relay(ids, event))
with open(request.drv_path, "rb") as file:
    derivation = parse_derivation(file.read())
front.accept("machine")
job = front.read_job()
assert client.build_derivation(request.drv_path, derivation, job.inputs).get().ok
"""
"""In the place of a hook: nothing but the request itself, over a connection of its own."""


class Client:
    """A host whose machine has the closure; builds one derivation after another."""

    def __init__(self, client: Host, builder: Host) -> None:
        self._host = client
        client.trust(builder)
        client.configure(builders=f"ssh-ng://{builder.name} - - 4")
        client.write_file("/root/closure.nix", EXPRESSION)
        (top,) = client.run(["nix-build", "/root/closure.nix", "-A", "top", "-j0", "--no-out-link"]).stdout.split()
        inputs = client.run(["nix-store", "--query", "--requisites", top]).stdout.split()
        assert len(inputs) == PATHS + 1
        self._drv_paths = client.run(["nix-instantiate", "/root/closure.nix", "-A", "users"]).stdout.split()
        self._next = iter(self._drv_paths)
        settings = {"builders": f"ssh-ng://{builder.name} {SYSTEM} - 4", "system": SYSTEM, "max-jobs": "0"}
        self._settings = format_settings(Settings(settings))
        w = Writer()
        w.strings(inputs)
        w.strings(["out"])
        client.path(JOB).write_bytes(w.take())
        client.write_file(MACHINE, ASK_MACHINE)
        self._commands = {side: command.format(builder=builder.name) for side, command in SIDES.items()}
        self._driver = client.popen(["python3", "-c", DRIVER], stdin=subprocess.PIPE)
        self._accepted: set[str] = set()

    def accept(self) -> None:
        """Have a build accepted on each side that has none."""
        for side in SIDES.keys() - self._accepted:
            request = Request(system=SYSTEM, drv_path=next(self._next), features=frozenset(), am_willing=False)
            self._host.path(REQUEST).write_bytes(self._settings + format_request(request))
            self._say(f"{side}: {self._commands[side]}")
            self._accepted.add(side)

    def start(self, side: str) -> None:
        """Have the accepted build of one side started."""
        self._say(side)
        self._accepted.remove(side)

    def _say(self, line: str) -> None:
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        print(line, file=self._driver.stdin, flush=True)
        assert self._driver.stdout.readline() == "done\n", self._driver.communicate()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    def ferry() -> Path:
        return install.build(tmp_path_factory.mktemp("nix-ferry"))

    with Lab(ferry) as lab:
        yield Client(lab.client(SUITE), lab.builder(SUITE))


def test_everything_is_there(client: Client, compare: Compare) -> None:
    # The first build of all tells the broker.
    client.accept()
    client.start("nix-ferry")
    sides = {side: partial(client.start, side) for side in SIDES}
    compare("closure-there", sides, ROUNDS, before=client.accept)
