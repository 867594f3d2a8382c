"""A shell on a machine, over the same ssh as builds: for what Nix's protocols do not tell.  Tested in test_shell.py."""

import os
import selectors
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from hook.errors import MachineError, Trouble
from hook.machines.builders import Machine
from hook.remote.child import Command
from hook.remote.routes import Routes

MOST_BYTES = 1 << 20
"""More than any script here has a machine print."""

SSH_FAILED = 255
"""The exit status of ssh where it is not that of the command."""

MOST_SAID = 200
"""Characters that are shown of what a machine says instead of running a command."""

CAPABILITIES = """
NIX_CONFIG="extra-experimental-features = nix-command"; export NIX_CONFIG
{ nix config show </dev/null 2>/dev/null || nix show-config </dev/null 2>/dev/null; } |
  grep -E '^(system|extra-platforms|system-features|experimental-features) = '
"""
"""A script for its standard input that prints what Nix could build there, as settings: `system = x86_64-linux`."""

EXPERIMENTS = frozenset({"ca-derivations", "recursive-nix"})
"""The experimental features that make a system feature of the same name, as every store of Nix 2.4 and later does."""


def system_features(system: Iterable[str], experimental: Iterable[str]) -> frozenset[str]:
    """What a store with these settings offers to builds that require it."""
    return frozenset(system) | EXPERIMENTS.intersection(experimental)


def shell_command(machine: Machine, routes: Routes, command: str) -> Command | None:
    """What runs `command` there; None if the machine is not reached by ssh.

    ConfigurationError if there is no way to it.
    """
    route = routes.to(machine)
    if not isinstance(route, Command) or "--" not in route.argv:
        return None
    ssh = route.argv[: route.argv.index("--") + 1]
    return replace(route, argv=(*ssh, command))


def run(
    argv: Sequence[str], environ: Mapping[str, str], script: str, name: str, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """Run a command that talks to the machine `name`, with `script`, of less than a pipe holds, as its input.

    MachineError if it does not end in time, or says more than MOST_BYTES.  OSError if it cannot be run.
    """
    end = time.monotonic() + timeout_s
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(argv, env=environ, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as child,
        selectors.DefaultSelector() as selector,
    ):
        try:
            assert child.stdin is not None
            with suppress(BrokenPipeError):
                child.stdin.write(script.encode())
            child.stdin.close()
            said = {child.stdout: bytearray(), child.stderr: bytearray()}
            for stream, text in said.items():
                assert stream is not None
                selector.register(stream, selectors.EVENT_READ, text)
            while selector.get_map():
                ready = selector.select(max(end - time.monotonic(), 0))
                if not ready:
                    raise MachineError(f"'{name}' did not answer within {timeout_s:g} s", Trouble.TIMED_OUT)
                for key, _ in ready:
                    data = os.read(key.fd, MOST_BYTES)
                    if not data:
                        selector.unregister(key.fileobj)
                    key.data.extend(data)
                if any(len(text) > MOST_BYTES for text in said.values()):
                    raise MachineError(f"'{name}' says more than {MOST_BYTES >> 20} MiB where a few lines are expected")
        finally:
            # One that has said everything is about to end.
            with suppress(subprocess.TimeoutExpired):
                child.wait(0 if selector.get_map() else max(end - time.monotonic(), 1))
            child.kill()
    stdout, stderr = (bytes(text).decode(errors="replace") for text in said.values())
    return subprocess.CompletedProcess(argv, child.returncode, stdout, stderr)
