"""The most memory that a build with a very large closure takes: of the broker, and of a hook without one.

Two hosts with Nix 2.34 and a real sshd between them.  The builder has all of the 200,000 paths that one build needs and
none of the 100,000 of another; further builds make a directory of 100,000 entries, one file of 1 GiB, and a log of a
million lines.  The kernel keeps the peaks; the program itself is in them.
"""

import json
from datetime import UTC, datetime

import pytest

from bench.compare import RESULTS, versions
from bench.conftest import MAX_KIB, peak_of_broker
from tests.lab import install
from tests.lab.host import Host

THERE, MISSING = 200_000, 100_000

ADD_CLOSURE = f"""
import hashlib, subprocess
from pathlib import Path

def field(data):
    return len(data).to_bytes(8, "little") + data + bytes(-len(data) % 8)

said, paths = [], []
for number in range({THERE}):
    path, content = f"/nix/store/{{number:032d}}-part-{{number}}", b"%d" % number
    Path(path).write_bytes(content)
    Path(path).chmod(0o444)
    words = (b"nix-archive-1", b"(", b"type", b"regular", b"contents", content, b")")
    nar = b"".join(map(field, words))
    said += [path, hashlib.sha256(nar).hexdigest(), str(len(nar)), "", str(len(paths[-4:])), *paths[-4:]]
    paths.append(path)
subprocess.run(["nix-store", "--load-db"], input="\\n".join(said) + "\\n", text=True, check=True)
print(paths[-1], paths[{MISSING} - 1])
"""
"""Adds small files of which each refers to the four before it; prints those with all and with the first as inputs."""

GRAPH = """
{ seed, all, some }: let
  make = script: inputs: derivation (inputs // {
    inherit seed; name = "made"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    args = [ "-ec" script ];
  });
in {
  there = make "echo > $out" { part = builtins.storePath all; };
  missing = make "echo > $out" { part = builtins.storePath some; };
  entries = make "mkdir $out; cd $out; seq 100000 | xargs touch" { };
  file = make "head -c 1073741824 /dev/urandom > $out" { };
  lines = make "seq -f 'compiling object number %.0f of many' 1000000; echo > $out" { };
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
def parts(hosts: tuple[Host, Host]) -> tuple[str, str]:
    """Paths in the client's store that have many others in their closures."""
    client, _ = hosts
    client.write_file("/root/memory.nix", GRAPH)
    client.write_file(MEASURING, HOOK, 0o755)
    return add_closure(client)


def add_closure(host: Host) -> tuple[str, str]:
    host.run(["nix-store", "--init"])
    there, missing = host.run(["python3", "-c", ADD_CLOSURE]).stdout.split()
    return there, missing


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
def test_memory(hosts: tuple[Host, Host], parts: tuple[str, str], scheme: str) -> None:
    client, builder = hosts
    client.configure(hook=MEASURING, builders=f"{scheme}://{builder.name} - - 4")
    peaks: dict[str, int] = {}
    builder.reset_store()
    add_closure(builder)
    for attribute in ("there", "missing", "entries", "file", "lines"):
        for alone in (False, True):
            client.stop_broker()
            builder.wait_idle()
            if attribute != "there":
                builder.reset_store()
            client.path(PEAK).unlink(missing_ok=True)
            way = f"{attribute}, {scheme}, {'alone' if alone else 'broker'}"
            arguments = ["--argstr", "seed", way, "--argstr", "all", parts[0], "--argstr", "some", parts[1]]
            environ = {"NIX_FERRY_STANDALONE": "1"} if alone else {}
            options = ["-A", attribute, "-j0", "--no-out-link", "--quiet"]
            client.run(["nix-build", "/root/memory.nix", *options, *arguments], env=environ)
            peaks[way] = max(map(int, client.read_file(PEAK).split())) if alone else peak_of_broker(client)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    kept = {"name": f"memory-{scheme}", "date": date, "versions": versions(), "peak_kib": peaks}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"memory-{scheme}-{date.replace(':', '')}.json").write_text(json.dumps(kept, indent=1) + "\n")
    assert max(peaks.values()) <= MAX_KIB, peaks
