"""Outputs fetched and inputs sent over loopback ssh, next to stock and to nothing but ssh.

Two hosts with Nix 2.34, their stores in memory.  A fetch is timed from the end of the build, which the builder notes
as its last act; the raw way is `nix-store --dump` through ssh into `nix-store --restore`, which neither hashes nor
registers anything.  Before each run both stores are emptied, and nix-ferry's broker is as warm as between two builds.
So is the memory that their contents will need: where the kernel is a guest, its host may have taken back what was free,
and to get it again costs more than to copy it.
"""

import itertools
import mmap
import time
from collections.abc import Callable

import pytest

from bench.conftest import MAX_KIB, Compare, peak_of_broker
from tests.lab import install
from tests.lab.host import Host

SYSTEM = "x86_64-linux"
SAMPLES = "/srv/samples"
ENDED = "/run/ended"
COPY = "/root/copy"
TOUCHED_BYTES = 3 << 30

MAKE_SAMPLES = f"""
import os
os.makedirs("{SAMPLES}")
with open("{SAMPLES}/large", "wb") as file:
    for _ in range(1024):
        file.write(os.urandom(1 << 20))
os.mkdir("{SAMPLES}/small")
for directory in range(100):
    os.mkdir(f"{SAMPLES}/small/{{directory}}")
    for number in range(200):
        with open(f"{SAMPLES}/small/{{directory}}/file-{{number}}.txt", "wb") as file:
            file.write(os.urandom(3000))
"""

GRAPH = f"""
let
  make = seed: script: inputs: derivation (inputs // {{
    inherit seed; name = "made"; system = "{SYSTEM}"; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    args = [ "-ec" script ];
  }});
  range = builtins.genList (i: i);
  small = seed: i: j: builtins.toFile "small-${{toString i}}-${{toString j}}" seed;
in {{
  warm = {{ seed, of }}: make seed "echo > $out" {{ }};
  fetched = {{ seed, of }}: make seed "cp -r {SAMPLES}/${{of}} $out; date +%s.%N > {ENDED}" {{ }};
  sent = {{ seed, of }}: make seed "echo > $out" {{ input = builtins.storePath of; }};
  # In a hundred variables: a single one must be shorter than 128 KiB.
  many = {{ seed, of }}: make seed "echo > $out" (builtins.listToAttrs (map (i: {{
    name = "inputs${{toString i}}"; value = map (small seed i) (range 30);
  }}) (range 100)));
}}
"""

SEEDS = itertools.count()
SIZES = [("small", 5), ("large", 3)]


@pytest.fixture(scope="module")
def pair(hosts: tuple[Host, Host]) -> tuple[Host, Host]:
    for host in hosts:
        host.run(["python3", "-c", MAKE_SAMPLES])
    hosts[0].write_file("/root/transfer.nix", GRAPH)
    return hosts


def instantiate(client: Host, attribute: str, of: str = "") -> str:
    options = ["-A", attribute, "--argstr", "of", of, "--argstr", "seed", str(next(SEEDS))]
    return client.run(["nix-instantiate", "/root/transfer.nix", *options]).stdout.strip()


def realise(client: Host, drv_path: str, hook: str | None) -> None:
    environ = {"NIX_CONFIG": f"build-hook = {hook}"} if hook else {}
    client.run(["nix-store", "-r", drv_path, "-j0", "--quiet"], env=environ)


def empty(pair: tuple[Host, Host]) -> None:
    """Leave nothing in the stores, and a warm connection."""
    client, builder = pair
    client.stop_broker()
    builder.wait_idle()
    for host in pair:
        host.run(["rm", "-rf", COPY])
        host.run(["nix-store", "--gc", "--quiet"])
    realise(client, instantiate(client, "warm"), install.HOOK)
    mmap.mmap(-1, TOUCHED_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
@pytest.mark.parametrize(("size", "rounds"), SIZES)
def test_fetch(pair: tuple[Host, Host], compare: Compare, scheme: str, size: str, rounds: int) -> None:
    client, builder = pair
    client.configure(builders=f"{scheme}://{builder.name} - - 8")

    def fetch(hook: str | None) -> float:
        realise(client, instantiate(client, "fetched", size), hook)
        return time.time() - float(builder.read_file(ENDED))

    def raw() -> None:
        dump = f"ssh {builder.name} nix-store --dump {SAMPLES}/{size}"
        client.run(["sh", "-c", f"{dump} | nix-store --restore {COPY}"])

    sides: dict[str, Callable[[], object]] = {
        "stock": lambda: fetch(None),
        "raw ssh": raw,
        "nix-ferry": lambda: fetch(install.HOOK),
    }
    compare(f"fetch-{size}-{scheme}", sides, rounds, before=lambda: empty(pair))
    assert peak_of_broker(client) <= MAX_KIB


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
@pytest.mark.parametrize(("size", "rounds"), SIZES)
def test_send(pair: tuple[Host, Host], compare: Compare, scheme: str, size: str, rounds: int) -> None:
    client, builder = pair
    client.configure(builders=f"{scheme}://{builder.name} - - 8")

    def before() -> None:
        empty(pair)
        paths.append(client.run(["nix-store", "--add", f"{SAMPLES}/{size}"]).stdout.strip())

    def send(hook: str | None) -> None:
        realise(client, instantiate(client, "sent", paths[-1]), hook)

    def raw() -> None:
        restore = f"ssh {builder.name} nix-store --restore {COPY}"
        client.run(["sh", "-c", f"nix-store --dump {SAMPLES}/{size} | {restore}"])

    paths: list[str] = []
    sides: dict[str, Callable[[], object]] = {
        "stock": lambda: send(None),
        "raw ssh": raw,
        "nix-ferry": lambda: send(install.HOOK),
    }
    compare(f"send-{size}-{scheme}", sides, rounds, before=before)
    assert peak_of_broker(client) <= MAX_KIB


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
def test_send_many(pair: tuple[Host, Host], compare: Compare, scheme: str) -> None:
    client, builder = pair
    client.configure(builders=f"{scheme}://{builder.name} - - 8")
    drv_paths: list[str] = []

    def before() -> None:
        empty(pair)
        drv_paths.append(instantiate(client, "many"))

    sides = {
        "stock": lambda: realise(client, drv_paths[-1], None),
        "nix-ferry": lambda: realise(client, drv_paths[-1], install.HOOK),
    }
    compare(f"send-3000-paths-{scheme}", sides, 5, before=before)
    assert peak_of_broker(client) <= MAX_KIB
