"""Requests that are left to Nix's own hook: it is found, it gets everything, and what it says and does is what counts.

A store with a parameter that we do not know is one that only stock may write to; its machine is another store on the
client itself.  An impure derivation is one that stock builds and Nix then cannot use.
"""

import re
import signal

import pytest

from tests.lab.gates import DIRECTORY, Gates, build_gated
from tests.lab.host import Host
from tests.lab.install import HOOK
from tests.lab.midway import HOOK_PROCESS, is_clean, kill, running
from tests.lab.offload import nix_build

pytestmark = pytest.mark.lab

ELSEWHERE = "/root/elsewhere"
ODD_STORE = "local?odd=1"
SANDBOX = f"/bin /lib /lib64 /usr {DIRECTORY}"
OURS = r"(?:'\S+' for|handing) '\S+'(?: to the stock build hook)?: .*"
"""Lines that only our hook says."""


def configure(client: Host, hook: str | None, builders: str = ELSEWHERE, **settings: str) -> None:
    # The directory must be there for a sandbox that shows it.
    client.run(["mkdir", "-p", DIRECTORY])
    client.configure(hook=hook, builders=builders, sandbox_paths=SANDBOX, **{"store": ODD_STORE, **settings})


@pytest.mark.parametrize("daemon", [False, True], ids=["single-user", "daemon"])
def test_a_store_that_is_not_for_us_is_built_for(client: Host, daemon: bool) -> None:
    """Every build of the graph goes through a stock hook of its own; at `-v` one line says so."""
    configure(client, HOOK)
    options = ["-v"]
    if daemon:
        client.start_daemon()
        options += ["--store", "daemon"]
    result = client.run(nix_build("shapes", seed="path", options=options))
    out = result.stdout.splitlines()[0]
    assert client.read_file(f"{out}/self") == f"out is at {out}\n"
    assert client.path(f"{ELSEWHERE}{out}").exists()
    built = re.findall(r"^building '(\S+)' on '(?:local://)?/root/elsewhere'", result.stderr, re.MULTILINE)
    handed = r"^handing '(\S+)' to the stock build hook: the local store has the parameter 'odd'$"
    assert len(built) == 2
    assert re.findall(handed, result.stderr, re.MULTILINE) == built
    is_clean(client)


def test_nobody_is_told_who_does_not_ask(client: Host) -> None:
    configure(client, HOOK)
    assert "handing" not in client.run(nix_build("from-source", seed="quiet")).stderr


def test_a_machine_given_by_its_path_is_ours_as_is_one_behind_ssh(client: Host, twin: Host) -> None:
    """Nothing is left to stock, and each build goes where it belongs."""
    client.trust(twin)
    machines = f"ssh-ng://{twin.name} - - 1 1 big-parallel big-parallel ; {ELSEWHERE}"
    configure(client, HOOK, machines, store="local")
    result = client.run(nix_build("featured", "from-source", seed="mixed", options=["-v"]))
    assert "handing '" not in result.stderr
    featured, from_source = result.stdout.split()
    assert client.read_file(featured) == f"{twin.name}\n"
    assert not client.path(f"{ELSEWHERE}{featured}").exists()
    assert client.path(f"{ELSEWHERE}{from_source}").exists()


IMPURE = """
derivation {
  name = "impure";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "echo impure; echo built > $out" ];
  __impure = true;
  outputHashAlgo = "sha256";
  outputHashMode = "recursive";
}
"""


@pytest.mark.parametrize("case", ["failing", "impure"])
def test_a_failure_is_told_as_without_us(client: Host, twin: Host, case: str) -> None:
    """The same exit status and the same lines, except for ours."""
    client.trust(twin)
    client.write_file("/root/impure.nix", IMPURE)
    features = {"experimental_features": "nix-command ca-derivations impure-derivations"}
    twin.configure(**features)
    results = []
    for hook in (None, HOOK):
        if case == "failing":
            configure(client, hook)
            command = nix_build("failing", seed="handed", options=["-v"])
        else:
            configure(client, hook, f"ssh-ng://{twin.name} - - 1 1 ca-derivations", store="local", **features)
            command = ["nix-build", "/root/impure.nix", "-j0", "--no-out-link", "-v"]
        results.append(client.run(command, check=False))
        for host in (client, twin):
            host.reset_store()
    stock, ours = results
    assert stock.returncode == ours.returncode != 0
    assert ours.stderr.count("handing '") == 1
    # Ours had connected before it saw what kind of derivation it is.
    both = [
        re.sub(rf"^(?:{OURS}|connecting to '\S+'\.\.\.)\n", "", said.stderr, flags=re.MULTILINE) for said in results
    ]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("victim", "number"),
    [("nix-build", signal.SIGINT), (HOOK_PROCESS, signal.SIGKILL)],
    ids=["interrupt", "hook-killed"],
)
def test_the_stock_hook_ends_with_us(client: Host, victim: str, number: signal.Signals) -> None:
    """It is our child, and Nix knows only us."""
    configure(client, HOOK)
    gates = Gates(client)
    with running(client, build_gated("a", seed="handed")) as build:
        gates.wait_for("+ a")
        kill(client, victim, number)
        build.communicate(timeout=30)
    assert build.returncode != 0
    is_clean(client)
    gates.leave_open("a")
    assert client.read_file(client.run(build_gated("a", seed="handed")).stdout.strip()) == "done\n"
