"""The most memory that a build with a very large closure takes: of the broker, and of a hook without one.

Two hosts with Nix 2.34 and a real sshd between them.  The builder has none of the 50,000 paths that one build needs; a
second build makes a directory of 100,000 entries, a third one file of 1 GiB.  The kernel keeps the peaks; the program
itself is in them.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from bench.compare import RESULTS, versions
from bench.conftest import MAX_KIB, peak_of_broker
from tests.lab import install
from tests.lab.host import Host

PATHS = 50_000

ADD_CLOSURE = f"""
import hashlib, subprocess
from pathlib import Path

def field(data):
    return len(data).to_bytes(8, "little") + data + bytes(-len(data) % 8)

said, paths = [], []
for number in range({PATHS}):
    path, content = f"/nix/store/{{number:032d}}-part-{{number}}", b"%d" % number
    Path(path).write_bytes(content)
    Path(path).chmod(0o444)
    words = (b"nix-archive-1", b"(", b"type", b"regular", b"contents", content, b")")
    nar = b"".join(map(field, words))
    said += [path, hashlib.sha256(nar).hexdigest(), str(len(nar)), "", str(len(paths[-4:])), *paths[-4:]]
    paths.append(path)
subprocess.run(["nix-store", "--load-db"], input="\\n".join(said) + "\\n", text=True, check=True)
print(paths[-1])
"""
"""Adds small files of which each refers to the four before it; prints the last of them."""

GRAPH = """
{ scheme, part }: let
  make = script: inputs: derivation (inputs // {
    inherit scheme; name = "made"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    args = [ "-ec" script ];
  });
in {
  closure = make "echo > $out" { part = builtins.storePath part; };
  entries = make "mkdir $out; cd $out; seq 100000 | xargs touch" { };
  file = make "head -c 1073741824 /dev/urandom > $out" { };
}
"""

MEASURING = "/usr/local/bin/measuring-hook"
PEAK = "/run/peak"
HOOK = f"""#!/usr/bin/python3
import os, resource, subprocess, sys
done = subprocess.run(["{install.HOOK}", *sys.argv[1:]], stdin=0, close_fds=False)
with open("{PEAK}", "a") as file:
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=file)
sys.exit(done.returncode)
"""
"""Runs our hook and notes the peak of the largest process that it was, or had, in KiB."""


@pytest.fixture(scope="module")
def part(hosts: tuple[Host, Host]) -> str:
    """The last path of a large closure in the client's store."""
    client, _ = hosts
    client.write_file("/root/memory.nix", GRAPH)
    client.write_file(MEASURING, HOOK, 0o755)
    client.run(["nix-store", "--init"])
    return client.run(["python3", "-c", ADD_CLOSURE]).stdout.strip()


@pytest.fixture
def record() -> Iterator[dict[str, int]]:
    """Peaks in KiB by build and way, to be kept in results/."""
    peaks: dict[str, int] = {}
    yield peaks
    date = datetime.now(UTC).isoformat(timespec="seconds")
    kept = {"name": "memory", "date": date, "versions": versions(), "peak_kib": peaks}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"memory-{date.replace(':', '')}.json").write_text(json.dumps(kept, indent=1) + "\n")


def test_memory(hosts: tuple[Host, Host], part: str, record: dict[str, int]) -> None:
    client, builder = hosts
    for scheme in ("ssh-ng", "ssh"):
        client.configure(hook=MEASURING, builders=f"{scheme}://{builder.name} - - 4")
        for alone in (False, True):
            for attribute in ("closure", "entries", "file"):
                client.stop_broker()
                builder.wait_idle()
                builder.reset_store()
                client.path(PEAK).unlink(missing_ok=True)
                seed = f"{scheme}, {'alone' if alone else 'broker'}"
                arguments = ["--argstr", "scheme", seed, "--argstr", "part", part, "-j0", "--no-out-link", "--quiet"]
                environ = {"NIX_FERRY_STANDALONE": "1"} if alone else {}
                client.run(["nix-build", "/root/memory.nix", "-A", attribute, *arguments], env=environ)
                peak = max(map(int, client.read_file(PEAK).split())) if alone else peak_of_broker(client)
                record[f"{attribute}, {seed}"] = peak
    assert max(record.values()) <= MAX_KIB, record
