"""Inputs that travel while another build runs, next to stock, which holds the slot for both.

Two hosts with Nix 2.34 and a real sshd between them; one machine with one slot at the end of a narrow link; twelve
builds of two seconds, each with an input that takes two seconds to get there.
"""

import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import narrow
from bench.conftest import Compare
from tests.lab import install
from tests.lab.host import Host
from tests.lab.lab import Lab

SUITE = "sid"
BUILDS = 12
BUILD_S = 2
UPLOAD_S = 2
BYTES_PER_S = 2_000_000
NARROW = "/usr/local/bin/narrow"
INPUTS = "/root/inputs"
OVERLAP = f"""
{{ seed }}: builtins.genList (i: derivation {{
  name = "overlap-${{toString i}}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  input = builtins.path {{ name = "input-${{seed}}-${{toString i}}"; path = {INPUTS} + "/${{toString i}}"; }};
  args = [ "-euc" "/bin/sleep {BUILD_S}; read -r first < $input; echo ${{seed}} > $out" ];
}}) {BUILDS}
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with Lab(lambda: install.build(tmp_path_factory.mktemp("nix-ferry"))) as lab:
        client, builder = lab.client(SUITE), lab.builder(SUITE)
        client.write_file("/root/overlap.nix", OVERLAP)
        client.run(["mkdir", INPUTS])
        client.trust(builder, "narrow")
        client.configure(builders="ssh-ng://narrow - - 1")
        with narrow_link(client, builder) as port:
            direct = client.read_file("/root/.ssh/hosts/narrow")
            at = direct.replace(f"Port {builder.port}", f"Port {port}\n  HostKeyAlias [127.0.0.1]:{builder.port}")
            client.write_file("/root/.ssh/hosts/narrow", at, 0o600)
            yield client


@contextmanager
def narrow_link(client: Host, builder: Host) -> Iterator[int]:
    """The port at which `builder` is reached through the link."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    client.write_file(NARROW, Path(narrow.__file__).read_bytes())
    with client.popen(["python3", NARROW, str(port), "127.0.0.1", str(builder.port), str(BYTES_PER_S)]) as link:
        try:
            assert link.stdout is not None
            assert link.stdout.readline() == "ready\n"
            yield port
        finally:
            client.end(link)


SEEDS = itertools.count()


def derivations(client: Host) -> list[str]:
    """Derivations that nobody has built yet, with inputs that are nowhere else."""
    for number in range(BUILDS):
        client.path(f"{INPUTS}/{number}").write_bytes(b"\n" + os.urandom(UPLOAD_S * BYTES_PER_S))
    command = ["nix-instantiate", "/root/overlap.nix", "--argstr", "seed", str(next(SEEDS))]
    return client.run(command).stdout.split()


def test_overlap(client: Host, compare: Compare) -> None:
    prepared: list[str] = []

    def prepare() -> None:
        prepared[:] = derivations(client)

    def build(hook: str | None) -> None:
        environ = {"NIX_CONFIG": f"build-hook = {hook}"} if hook else {}
        client.run(["nix-store", "-r", "-j0", "-Q", *prepared], env=environ, timeout=300)

    sides = {"stock": lambda: build(None), "nix-ferry": lambda: build(install.HOOK)}
    compare("overlap", sides, 2, before=prepare)
