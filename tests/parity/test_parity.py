"""Stock's hook and ours leave the same stores, say the same and exit alike, on every client."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from hook.protocol.activity import ResultType
from tests.lab import roots
from tests.lab.host import Host
from tests.lab.lab import GRAPHS, Lab
from tests.lab.offload import MARK, connect, mark
from tests.parity import floating, here, logs, scenarios, store_features, untrusted
from tests.parity.messages import comparable
from tests.parity.scenarios import Scenario
from tests.parity.snapshot import registration_times, snapshot

pytestmark = pytest.mark.lab

SCENARIOS = (
    *scenarios.SCENARIOS,
    *floating.SCENARIOS,
    *untrusted.SCENARIOS,
    *store_features.SCENARIOS,
    *logs.SCENARIOS,
    *here.SCENARIOS,
)


@dataclass(frozen=True)
class Observed:
    """What one run of a scenario left; lines of text."""

    status: int
    messages: list[str]
    client: list[str]
    builder: list[str]


def observe(scenario: Scenario, client: Host, builder: Host, hook: str | None, scratch: Path) -> Observed:
    """Run a scenario on empty stores."""
    features = {"experimental_features": f"nix-command {scenario.features}"}
    for host in (client, builder):
        host.reset()
    builder.configure(**features, trusted_users=scenario.trusted)
    if scenario.machines:
        client.configure(hook=hook, builders=scenario.machines, **features, **scenario.settings)
    else:
        connect(client, builder, hook, scenario.prefix, scenario.features or "-", **features, **scenario.settings)
    if "visitor@" in scenario.prefix:
        builder.add_user("visitor")
        builder.start_daemon()
    if scenario.daemon:
        client.start_daemon()
    # How often progress is reported depends on how the bytes arrive.  Nix 2.8 does not say how many bytes it is going
    # to copy; later ones do, and so do we.
    unseen = {ResultType.PROGRESS, ResultType.SET_EXPECTED} if client.nix_release() < (2, 9) else {ResultType.PROGRESS}
    outputs = scenario.act(client, builder)
    messages = []
    for output in outputs:
        said = comparable(output.stderr, unseen, here=bool(scenario.machines))
        messages += [f"exit {output.returncode}", *output.stdout.splitlines(), *said]
    client.stop_daemon()
    client.stop_broker()
    builder.stop_daemon()
    client.wait_idle()
    builder.wait_idle()
    machine, machine_store = (client, scenario.machine_store) if scenario.machine_store else (builder, "/nix")
    # The serve protocol does not tell when a path was registered there; nor does stock know it of a store that it
    # opened itself, and takes the time of its own.
    tells = (scenario.machines or scenario.prefix).startswith(("ssh-ng:", "unix:"))
    there = registration_times(machine, scratch, machine_store) if tells else None
    return Observed(
        outputs[-1].returncode,
        messages,
        snapshot(client, scratch, scenario.store, there),
        snapshot(machine, scratch, machine_store),
    )


def differences(stock: list[str], ours: list[str], subject: str) -> str:
    """Return a diff, empty if both agree."""
    lines = difflib.unified_diff(stock, ours, f"{subject}, stock", f"{subject}, ours", lineterm="", n=0)
    # Logs may hold anything, reports of tests only what is text.
    return "\n".join(lines).encode(errors="backslashreplace").decode()


@pytest.mark.parametrize(
    ("client", "scenario"),
    [
        pytest.param(suite, scenario, id=f"client-{roots.label(suite)}-{scenario.name}")
        for suite in roots.SUITES
        for scenario in SCENARIOS
        if suite in scenario.suites
    ],
    indirect=["client"],
)
@pytest.mark.any_hook
def test_stock_and_ours_agree(
    lab: Lab, client: Host, twin: Host, modes: Sequence[str], scenario: Scenario, tmp_path: Path
) -> None:
    """Ours in each of its ways.  The builder runs the client's release, since messages of a build come from there."""
    stock = observe(scenario, client, twin, None, tmp_path)
    assert stock.status == scenario.status, stock.messages
    for mode in modes:
        lab.standalone(mode == "standalone")
        ours = observe(scenario, client, twin, None if mode == "stock" else mark(client), tmp_path)
        assert client.path(MARK).exists() == (mode != "stock")
        if ours.messages != stock.messages:
            # On a busy host stock may lose the end of a log that a failure ends: it does not wait until that is read.
            stock = observe(scenario, client, twin, None, tmp_path)
        found = [
            differences(stock.messages, ours.messages, f"messages, {mode}"),
            differences(stock.client, ours.client, f"client, {mode}"),
            differences(stock.builder, ours.builder, f"builder, {mode}"),
        ]
        assert "\n".join(filter(None, found)) == ""


TAMPERING = {
    "mode": "chmod u+w $out/report",
    "time": "touch $out",
    "owner": "chown 1:1 $out/report",
    "link count": "ln $out/report /nix/var/extra",
    "content": "chmod u+w $out/report; printf x | dd of=$out/report bs=1 conv=notrunc; chmod 444 $out/report",
    "left-over file": "touch /nix/store/left-over",
    "row": "sqlite3 /nix/var/nix/db/db.sqlite \"update ValidPaths set ultimate = null where path = '$out'\"",
    "reference": "sqlite3 /nix/var/nix/db/db.sqlite 'delete from Refs where rowid = (select max(rowid) from Refs)'",
    "log": "rm -r /nix/var/log/nix/drvs",
}
"""Shell commands that change one thing each."""


@pytest.mark.parametrize("command", TAMPERING.values(), ids=TAMPERING.keys())
def test_the_harness_sees_any_single_difference(lab: Lab, tmp_path: Path, command: str) -> None:
    """Otherwise agreement would mean nothing."""
    host = lab.client(roots.SUITES[0])
    host.reset()
    build = ["nix-build", f"{GRAPHS}/graph.nix", "-A", "top", "--argstr", "seed", "parity", "--no-out-link"]
    out = host.run(build).stdout.strip()
    before = snapshot(host, tmp_path)
    assert differences(before, snapshot(host, tmp_path), "untouched") == ""
    host.run(["sh", "-euc", command], env={"out": out})
    assert differences(before, snapshot(host, tmp_path), "touched") != ""
