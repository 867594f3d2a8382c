"""From the start of the hook to its first reply, next to stock's: Nix's event loop waits for exactly this long.

On two hosts with Nix 2.34 and a real sshd between them.  The machine is healthy and the answer is `# accept`, or no
machine could build it and the answer is `# decline`.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.conftest import Compare
from hook.front.front import format_request, format_settings
from hook.front.request import Request
from hook.values.settings import Settings
from tests.lab import install
from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.lab.offload import connect, instantiate, plain

SUITE = "sid"
SYSTEM = "x86_64-linux"
REQUEST = "/run/request"

DRIVER = f"""
import subprocess, sys
request = open("{REQUEST}", "rb").read()
for line in sys.stdin:
    hook = subprocess.Popen(line.split(), stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    hook.stdin.write(request)
    hook.stdin.flush()
    for reply in hook.stderr:
        if reply.startswith(b"# "):
            print(reply.decode().strip(), flush=True)
            break
    else:
        print("no reply", flush=True)
    hook.kill()
    hook.wait()
    hook.stderr.close()
    hook.stdin.close()
"""
"""Runs inside the client and plays Nix's part, so that entering the host is not measured."""


class Asker:
    """Starts hooks inside a client, again and again."""

    def __init__(self, client: Host) -> None:
        self._process = client.popen(["python3", "-c", DRIVER], stdin=subprocess.PIPE)

    def ask(self, hook: str, expected: str) -> None:
        """Start `hook` and wait for its reply."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(hook, file=self._process.stdin, flush=True)
        assert self._process.stdout.readline().strip() == expected


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    def ferry() -> Path:
        return install.build(tmp_path_factory.mktemp("nix-ferry"))

    with Lab(ferry) as lab:
        builder, client = lab.builder(SUITE), lab.client(SUITE)
        connect(client, builder, None)
        client.drv_path = instantiate(client, "top", "bench")  # type: ignore[attr-defined]
        client.builder_uri = plain(builder)  # type: ignore[attr-defined]
        yield client


@pytest.mark.parametrize(
    ("name", "features", "reply"), [("accept", (), "# accept"), ("decline", ("kvm",), "# decline")]
)
def test_first_reply(client: Host, compare: Compare, name: str, features: tuple[str, ...], reply: str) -> None:
    settings = Settings({"builders": f"{client.builder_uri} {SYSTEM} - 4", "system": SYSTEM, "max-jobs": "0"})  # type: ignore[attr-defined]
    request = Request(system=SYSTEM, drv_path=client.drv_path, features=frozenset(features), am_willing=False)  # type: ignore[attr-defined]
    client.path(REQUEST).write_bytes(format_settings(settings) + format_request(request))
    asker = Asker(client)
    sides = {
        "stock": lambda: asker.ask("/usr/bin/nix __build-remote 0", reply),
        "nix-ferry": lambda: asker.ask(f"{install.HOOK} 0", reply),
    }
    compare(f"first-reply-{name}", sides, 30)
