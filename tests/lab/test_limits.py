"""Limits that the user sets for builds hold on the machine that builds, by both protocols.

Stock sends them over ssh only, so this is not compared with it.
"""

import re

import pytest

from tests.lab.host import Host, Output
from tests.lab.offload import connect, nix_build

pytestmark = [pytest.mark.lab, pytest.mark.parametrize("prefix", ["ssh-ng://", "ssh://"])]


@pytest.fixture(autouse=True)
def _ours(hook: str | None) -> None:
    assert hook is not None, "what is tested here is better than stock's"


def build(client: Host, builder: Host, hook: str | None, prefix: str, *attributes: str, **limits: int | str) -> Output:
    """Build attributes of logs.nix under limits; the daemon there is a fresh one, and nothing is left to run after."""
    builder.start_daemon()
    connect(client, builder, hook, prefix)
    options = [word for name, value in limits.items() for word in ("--option", name.replace("_", "-"), str(value))]
    result = client.run(
        nix_build(*attributes, seed="limits", graph="logs", options=["-k", *options]), check=False, timeout=60
    )
    assert result.returncode != 0
    client.stop_broker()
    builder.wait_idle()
    return result


def test_builds_that_take_too_long_are_stopped(client: Host, twin: Host, hook: str | None, prefix: str) -> None:
    """One says nothing for too long, the other does not end."""
    result = build(client, twin, hook, prefix, "silent", "slow", max_silent_time=1, timeout=2)
    for name, reason in (("silent", "timed out after 1 seconds"), ("slow", "timed out after 2 seconds")):
        failed = [line for line in result.stderr.splitlines() if f"-{name}.drv" in line and reason in line]
        assert failed, result.stderr
    assert "still there" in result.stderr


def test_a_build_that_prints_too_much_is_stopped(client: Host, twin: Host, hook: str | None, prefix: str) -> None:
    result = build(client, twin, hook, prefix, "endless", max_build_log_size=10000)
    assert "than 10000 bytes" in result.stderr, result.stderr[-2000:]


def test_what_a_failed_build_leaves_is_kept(client: Host, twin: Host, hook: str | None, prefix: str) -> None:
    """On the machine that built it, and the user is told where."""
    result = build(client, twin, hook, prefix, "failing", keep_failed="true")
    (directory,) = re.findall("note: keeping build directory ['\"](.*)['\"]", result.stderr)
    assert twin.path(directory).is_dir()
