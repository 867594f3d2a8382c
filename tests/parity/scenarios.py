"""What the parity tests do with a client and a builder.

A scenario gets both with empty stores, knowing each other (offload.connect), and returns what its commands printed.
A new one is a function in SCENARIOS; `settings` and `daemon` say how the client is set up for it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.lab.host import Host, Output
from tests.lab.lab import GRAPHS
from tests.lab.offload import SSH_NG, nix_build
from tests.lab.roots import SUITES

CONF = "/etc/nix/nix.conf"
KEPT = re.compile(r"(/nix/var/nix/builds|/tmp)/nix-[\w.-]+")


@dataclass(frozen=True)
class Scenario:
    """One entry of the list."""

    name: str
    act: Callable[[Host, Host], Sequence[Output]]
    status: int = 0
    """What the last command exits with."""
    daemon: bool = True
    prefix: str = SSH_NG
    """Scheme and user of the machines."""
    machines: str = ""
    """What `builders` is instead."""
    trusted: str = "root"
    """Users that the builder trusts."""
    features: str = ""
    """Experimental features, on both sides."""
    settings: Mapping[str, str] = field(default_factory=dict)
    store: str = "/nix"
    """Where the client's store lies."""
    machine_store: str = ""
    """Where the machine's store lies, on the client; empty if it is that of the builder."""
    suites: Sequence[str] = SUITES
    """Releases to do it with."""


def _build(*attributes: str, options: Sequence[str] = ()) -> Callable[[Host, Host], Sequence[Output]]:
    def act(client: Host, _builder: Host) -> Sequence[Output]:
        return [client.run(nix_build(*attributes, seed="parity", options=options), check=False)]

    return act


def _nix_build_with_logs(client: Host, _builder: Host) -> Sequence[Output]:
    command = ["nix", "build", "-L", "--no-link", "-j0", "-f", f"{GRAPHS}/graph.nix", "top"]
    return [client.run([*command, "--argstr", "seed", "parity"], check=False)]


def _build_what_the_builder_has(client: Host, builder: Host) -> Sequence[Output]:
    """The second build finds its inputs and outputs on the builder."""
    first = _build("shapes")(client, builder)
    client.reset_store()
    return [*first, *_build("shapes")(client, builder)]


def _build_missing_outputs(client: Host, builder: Host) -> Sequence[Output]:
    """Only some outputs are wanted, since the others are still valid."""
    first = _build("shapes")(client, builder)
    empty = _build("shapes.empty")(client, builder)
    client.run(["nix-store", "--delete", empty[0].stdout.strip()])
    return [*first, *empty, *_build("shapes.empty", "shapes.out")(client, builder)]


def _build_and_keep(client: Host, builder: Host) -> Sequence[Output]:
    """A failing build whose directory stays on the machine, under a name that is another one each time."""
    # Over ssh-ng stock does not tell a machine what the user wants, and we do.
    builder.write_file(CONF, builder.read_file(CONF) + "keep-failed = true\n")
    built = client.run(nix_build("mute", seed="parity", options=["--keep-failed"]), check=False)
    assert "keeping build directory" in built.stderr
    return [Output(built.args, built.returncode, built.stdout, KEPT.sub("(kept)", built.stderr))]


SCENARIOS = (
    Scenario("graph", _build("top")),
    Scenario("graph, single user", _build("top"), daemon=False),
    Scenario(
        "graph, chroot store",
        _build("top", options=["--store", "/root/chroot"]),
        daemon=False,
        store="/root/chroot/nix",
    ),
    Scenario("graph, with logs", _nix_build_with_logs),
    Scenario("graph, as JSON", _build("top", options=["--log-format", "internal-json"])),
    Scenario("graph, ssh", _build("top"), prefix="ssh://"),
    Scenario("graph, ssh, as JSON", _build("top", options=["--log-format", "internal-json"]), prefix="ssh://"),
    Scenario("graph, optimised store", _build("top", "duplicates"), settings={"auto_optimise_store": "true"}),
    Scenario("failing", _build("failing"), status=1),
    Scenario(
        "failing, others go on", _build("failing", "after-failing", "forgetful", "shapes", options=["-k"]), status=1
    ),
    # One that says nothing: stock's hook may end before Nix has read what came last.
    Scenario("failing, ssh", _build("mute"), status=1, prefix="ssh://"),
    Scenario("failing, kept", _build_and_keep, status=1),
    # The name of the directory is in the log of the build.
    Scenario("failing, kept, ssh", _build_and_keep, status=1, prefix="ssh://", settings={"keep_build_log": "false"}),
    Scenario("other user", _build("shapes"), prefix="ssh-ng://visitor@", trusted="root visitor"),
    Scenario("other user, ssh", _build("shapes"), prefix="ssh://visitor@", trusted="root visitor"),
    # Older daemons do not say that they do not trust us.
    Scenario("untrusted", _build("shapes"), prefix="ssh-ng://visitor@", suites=SUITES[1:]),
    Scenario("features", _build("featured")),
    Scenario("impossible", _build("impossible"), status=1),
    Scenario("the builder has all", _build_what_the_builder_has),
    Scenario("some outputs are missing", _build_missing_outputs),
)
