"""The nix-ferry command, next to what Nix then really does."""

import fcntl
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest

from tests.lab.host import Host, Output
from tests.lab.install import PREFIX
from tests.lab.lab import GRAPHS
from tests.lab.offload import big, connect, instantiate, nix_build, plain

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]

NIX_FERRY = f"{PREFIX}/bin/nix-ferry"
LOGIN_S = 1
"""How long a login may take at least."""

ELSEWHERE_ONLY = ("--option", "max-jobs", "0")


def ferry(
    client: Host, *arguments: str, check: bool = True, user: str = "root", env: Mapping[str, str] | None = None
) -> Output:
    return client.run([NIX_FERRY, *arguments], check=check, user=user, env=env)


@pytest.fixture(autouse=True)
def store(twin: Host) -> None:
    """Two daemons that find no store at all make it at the same time, and one of them fails."""
    twin.run(["nix-store", "--init"])


@contextmanager
def busy(client: Host, machine: str, slots: int) -> Iterator[None]:
    """Hold slots of a machine, as other builds would."""
    directory = client.path("/nix/var/nix/current-load")
    directory.mkdir(parents=True, exist_ok=True)
    files = [(directory / f"{machine.replace('/', '_')}-{number}").open("w") for number in range(slots)]
    try:
        for file in files:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        for file in files:
            file.close()


def verdicts(shown: str) -> dict[str, str]:
    """The last column of the table, by machine."""
    rows = [re.split(" {2,}", line) for line in shown.splitlines() if line.startswith("ssh")]
    return {row[0]: row[-1] for row in rows}


def outcome(shown: str) -> str:
    return shown.splitlines()[-1]


def test_what_is_explained_is_what_happens(client: Host, twin: Host, hook: str | None) -> None:
    """Each machine with its reason; then Nix builds it there."""
    connect(client, twin, hook)
    drv = instantiate(client, "from-source", "explained")
    shown = ferry(client, "explain", drv, *ELSEWHERE_ONLY).stdout
    assert shown.splitlines()[0] == f"{drv} needs x86_64-linux"
    assert verdicts(shown) == {
        plain(twin): "chosen: load 0/1, 0 of 4 slots busy",
        big(twin): "takes only builds that require feature 'big-parallel'",
    }
    assert outcome(shown) == f"so it goes to '{plain(twin)}'"
    assert re.search(rf"^{plain(twin)} +[1-9]\d* paths, ", shown, re.MULTILINE)
    built = client.run(nix_build("from-source", seed="explained"))
    assert f"building '{drv}' on '{plain(twin)}'" in built.stderr
    shown = ferry(client, "explain", drv, *ELSEWHERE_ONLY).stdout
    assert re.search(rf"^{plain(twin)} +nothing +chosen", shown, re.MULTILINE)
    gone = ferry(client, "explain", drv, "--option", "builders", "ssh-ng://nowhere.invalid").stdout
    assert re.search(r"^ssh-ng://nowhere.invalid +not reached +chosen", gone, re.MULTILINE)


def test_a_build_that_must_wait_is_explained(client: Host, twin: Host, hook: str | None) -> None:
    connect(client, twin, hook)
    drv = instantiate(client, "from-source", "waiting")
    with busy(client, plain(twin), 4):
        waiting = ferry(client, "explain", drv, *ELSEWHERE_ONLY).stdout
        here = ferry(client, "explain", drv, "--option", "max-jobs", "1").stdout
    assert verdicts(waiting)[plain(twin)] == "all 4 slots are busy"
    assert outcome(waiting) == "so it waits for a slot of one of these machines"
    assert outcome(here) == "so this host builds it"


def test_a_build_that_nobody_can_do_is_explained(client: Host, twin: Host, hook: str | None) -> None:
    """With the feature that is lacking; Nix says the same with its own words."""
    connect(client, twin, hook)
    drv = instantiate(client, "impossible", "nobody")
    shown = ferry(client, "explain", drv, *ELSEWHERE_ONLY).stdout
    assert shown.splitlines()[0] == f"{drv} needs x86_64-linux, unobtainium"
    assert verdicts(shown)[plain(twin)] == "lacks feature 'unobtainium'"
    assert outcome(shown) == "so Nix cannot build it: no machine is able to, nor is this host"
    failed = client.run(nix_build("impossible", seed="nobody"), check=False)
    assert failed.returncode != 0
    assert "unobtainium" in failed.stderr


def test_a_build_that_prefers_this_host_is_explained(client: Host, twin: Host, hook: str | None) -> None:
    """Structured attributes or not; with no job slots here, it goes elsewhere all the same."""
    connect(client, twin, hook)
    for attribute in ("local", "structured-local"):
        drv = instantiate(client, attribute, "local", graph="unusual")
        shown = ferry(client, "explain", drv, "--option", "max-jobs", "1").stdout
        assert outcome(shown) == "so Nix builds it on this host and asks no build hook: it has preferLocalBuild set"
        shown = ferry(client, "explain", drv, *ELSEWHERE_ONLY).stdout
        assert outcome(shown) == f"so it goes to '{plain(twin)}'"


def test_programs_get_json(client: Host, twin: Host, hook: str | None) -> None:
    connect(client, twin, hook)
    (told,) = json.loads(ferry(client, "explain", "--json", instantiate(client, "from-source", "json")).stdout)
    assert [machine["machine"] for machine in told["machines"]] == [plain(twin), big(twin)]
    paths, size = told["inputs"]["paths"], told["inputs"]["bytes"]
    assert (paths > 0, size > 0, told["inputs"]["unbuilt"]) == (True, True, 0)
    assert [machine["lacks"] for machine in told["machines"]] == [{"paths": paths, "bytes": size}, None]
    assert (told["answer"], told["features"], told["system"]) == ("accept", [], "x86_64-linux")
    twin.write_file("/root/.bashrc", f"sleep {LOGIN_S}\n")
    began = time.monotonic()
    pongs = json.loads(ferry(client, "ping", "--json").stdout)
    elapsed_s = time.monotonic() - began
    assert [pong["machine"] for pong in pongs] == [plain(twin), big(twin)]
    assert all(pong["request_s"] >= 0 and pong["connect_s"] > LOGIN_S for pong in pongs)
    assert all(0 < pong["connect_s"] < pong["connect_s"] + pong["request_s"] < elapsed_s for pong in pongs)


@pytest.mark.parametrize("client", ["sid"], indirect=True)
def test_a_ping_measures_the_link(client: Host, twin: Host, hook: str | None) -> None:
    """Each way by ssh; a machine that cannot be reached, or not by ssh, has no speed."""
    connect(client, twin, hook)
    machines = f"{plain(twin)} - - 4 ; ssh-ng://nowhere.invalid ; /srv/store"
    speed = ("ping", "--speed", "--option", "builders", machines)
    pongs = json.loads(ferry(client, *speed, "--json", check=False).stdout)
    assert [pong["speed"] for pong in pongs[1:]] == [None, {"upload": None, "download": None}]
    assert all(rate > 1 << 20 for rate in pongs[0]["speed"].values())
    shown = ferry(client, *speed, check=False).stdout.splitlines()
    assert shown[0].split() == ["MACHINE", "CONNECT", "REQUEST", "TRUSTED", "UPLOAD", "DOWNLOAD", "SAYS"]
    assert [line.count("MiB/s") for line in shown[1:]] == [2, 0, 0]


def test_a_ping_says_what_is_wrong_with_a_machine(client: Host, twin: Host, hook: str | None) -> None:
    """The good ones are shown as well; the status tells that not all are."""
    connect(client, twin, hook)
    client.configure(hook=hook, builders=f"{plain(twin)} - - 4 ; ssh-ng://nowhere.invalid ; ssh-ng://x - - many")
    done = ferry(client, "ping", check=False)
    assert done.returncode == 1
    rows = verdicts(done.stdout)
    assert f"Nix {twin.nix_version()}, protocol" in rows[plain(twin)]
    assert "Could not resolve hostname nowhere.invalid" in rows["ssh-ng://nowhere.invalid"]
    assert done.stderr.startswith("warning: builders: ignoring 'ssh-ng://x - - many': column 4 (max jobs) is 'many'")
    assert ferry(client, "ping", twin.name).returncode == 0


def test_a_machine_that_is_this_very_store_is_found(client: Host, twin: Host, hook: str | None) -> None:
    """As by a build, which would wait for itself; the doctor says it in the same words."""
    connect(client, twin, hook)
    client.run(["nix-store", "--init"])
    machine = ("--option", "builders", "ssh-ng://localhost - - 4")
    done = ferry(client, "ping", *machine, check=False)
    assert done.returncode == 1
    assert "it is this very store" in verdicts(done.stdout)["ssh-ng://localhost"]
    assert "it is this very store" in ferry(client, "doctor", *machine, check=False).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["explain", "/nix/store/nothing.drv"],
            "error: cannot read '/nix/store/nothing.drv': No such file or directory",
        ),
        (["explain", f"{GRAPHS}/no.drv"], f"error: cannot understand '{GRAPHS}/no.drv': "),
        (["ping", "nobody"], "error: no machine of 'builders' matches"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    client: Host, twin: Host, hook: str | None, arguments: Sequence[str], said: str
) -> None:
    connect(client, twin, hook)
    client.write_file(f"{GRAPHS}/no.drv", "Derive(")
    done = ferry(client, *arguments, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == 1
