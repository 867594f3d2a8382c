"""Limits that the user sets for builds hold on the machine that builds, by both protocols.

Stock sends them over ssh only, so this is not compared with it.
"""

import re
import signal
from collections.abc import Callable

import pytest

from tests.lab import roots
from tests.lab.gates import Gates, build_gated
from tests.lab.host import Host, Output
from tests.lab.lab import Lab
from tests.lab.midway import is_clean, kill, running
from tests.lab.offload import connect, nix_build

pytestmark = [pytest.mark.lab, pytest.mark.parametrize("prefix", ["ssh-ng://", "ssh://"])]


NIX = r"nix-(daemon --stdio|store --serve)"


@pytest.fixture(autouse=True)
def _ours(hook: str | None) -> None:
    assert hook is not None, "what is tested here is better than stock's"


def command(*attributes: str, **limits: int | str) -> list[str]:
    """Build attributes of logs.nix under limits."""
    options = [word for name, value in limits.items() for word in ("--option", name.replace("_", "-"), str(value))]
    return nix_build(*attributes, seed="limits", graph="logs", options=["-k", *options])


def build(client: Host, builder: Host, hook: str | None, prefix: str, *attributes: str, **limits: int | str) -> Output:
    """The same to its end; the daemon there is a fresh one, and nothing is left to run after."""
    builder.start_daemon()
    connect(client, builder, hook, prefix)
    result = client.run(command(*attributes, **limits), check=False, timeout=60)
    assert result.returncode != 0
    client.stop_broker()
    builder.wait_idle()
    return result


def test_builds_that_take_too_long_are_stopped(client: Host, twin: Host, hook: str | None, prefix: str) -> None:
    """One says nothing for too long, the other does not end; at once, and each with its own limit only."""
    twin.start_daemon()
    connect(client, twin, hook, prefix)
    # Two commands that make the same store at the same time trip over each other.
    client.run(["nix-store", "--init"])
    with (
        running(client, command("silent", max_silent_time=1)) as silent,
        running(client, command("slow", timeout=5)) as slow,
    ):
        said = {"silent": silent.communicate(timeout=60)[1], "slow": slow.communicate(timeout=60)[1]}
    assert silent.returncode != 0
    assert slow.returncode != 0
    for name, reason in (("silent", "timed out after 1 seconds"), ("slow", "timed out after 5 seconds")):
        assert [line for line in said[name].splitlines() if f"-{name}.drv" in line and reason in line], said
    assert "still there" in said["slow"]
    client.stop_broker()
    twin.wait_idle()


def test_a_build_that_prints_too_much_is_stopped(client: Host, twin: Host, hook: str | None, prefix: str) -> None:
    result = build(client, twin, hook, prefix, "endless", max_build_log_size=10000)
    assert "than 10000 bytes" in result.stderr, result.stderr[-2000:]


def test_what_a_failed_build_leaves_is_kept(client: Host, twin: Host, hook: str | None, prefix: str) -> None:
    """On the machine that built it, and the user is told where."""
    result = build(client, twin, hook, prefix, "failing", keep_failed="true")
    (directory,) = re.findall("note: keeping build directory ['\"](.*)['\"]", result.stderr)
    assert twin.path(directory).is_dir()


def test_a_machine_that_does_not_keep_them_any_more_is_left(
    lab: Lab, fresh: Callable[[Host], Host], hook: str | None, prefix: str
) -> None:
    """Its Nix has come to a stop; the link is as good as ever."""
    client, builder = fresh(lab.client(roots.SUITES[-1])), fresh(lab.builder(roots.SUITES[-1]))
    connect(client, builder, hook, prefix)
    gates = Gates(builder)
    with running(client, build_gated("a", seed="limits", options=["-j0", "--timeout", "10"])) as build:
        gates.wait_for("+ a")
        kill(builder, NIX, signal.SIGSTOP)
        _, stderr = build.communicate(timeout=60)
    kill(builder, NIX, signal.SIGCONT)
    assert build.returncode != 0
    (line,) = (line for line in stderr.splitlines() if "failed: building of" in line)
    assert line.endswith("timed out after 10 seconds")
    is_clean(client, builder)
