"""The progress bar of `nix build`, which Nix draws from what our hook says, at a terminal."""

import pytest

from tests.lab.gates import Gates
from tests.lab.host import Host
from tests.lab.lab import GRAPHS
from tests.lab.offload import connect
from tests.lab.terminal import Terminal

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]


def test_the_bar_shows_what_is_built_and_its_last_line(client: Host, twin: Host, hook: str | None) -> None:
    """While it is built, on every release; the bar is gone afterwards."""
    connect(client, twin, hook)
    gates = Gates(twin)
    command = ["nix", "build", "-f", f"{GRAPHS}/gated.nix", "a", "--argstr", "seed", "bar", "--no-link", "-j0"]
    with Terminal(client, command, columns=120) as terminal:
        gates.wait_inside(1)
        # Of the two activities, Nix's own and that of the machine, it shows the one that has spoken last.
        terminal.expect(r"building \S*a\S*( on \S+)?: a waits")
        gates.let_through("a")
        status, rest = terminal.finish()
    assert (status, "error" in rest) == (0, False)
