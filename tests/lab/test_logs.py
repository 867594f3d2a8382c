"""Logs of builds arrive to the last byte, by both protocols.

Stock's do not always: over ssh it ends while Nix is still reading the log, and with Nix 2.8 and 2.26 a line of 200 kB
over ssh-ng is lost.  So this is not compared with it.
"""

import pytest

from tests.lab.host import Host, Output
from tests.lab.lab import GRAPHS
from tests.lab.offload import connect, nix_build

pytestmark = [pytest.mark.lab, pytest.mark.parametrize("prefix", ["ssh-ng://", "ssh://"])]

LONG = {"long-line": "x" * 200_000 + "\nafter\n", "no-newline": "y" * 1_000_000 + "\n"}
AT_LENGTH = "".join(f"{number}\n" for number in range(1, 30001))


@pytest.fixture(autouse=True)
def _ours(hook: str | None) -> None:
    assert hook is not None, "what is tested here is better than stock's"


def build(client: Host, builder: Host, hook: str | None, prefix: str, *attributes: str) -> Output:
    """Build attributes of logs.nix."""
    connect(client, builder, hook, prefix)
    return client.run(nix_build(*attributes, seed="logs", graph="logs", options=["-k"]), check=False)


def stored_log(client: Host, attribute: str) -> str:
    """Return what `nix log` shows of an attribute of logs.nix."""
    command = ["nix-instantiate", f"{GRAPHS}/logs.nix", "-A", attribute, "--argstr", "seed", "logs"]
    return client.run(["nix-store", "--read-log", client.run(command).stdout.strip()]).stdout


def test_lines_of_any_length_are_kept(client: Host, twin: Host, hook: str | None, prefix: str) -> None:
    result = build(client, twin, hook, prefix, *LONG)
    assert result.returncode == 0, result.stderr[-2000:]
    shown = result.stderr.splitlines()
    for attribute, log in LONG.items():
        # Nix shows lines of both builds as they come.
        assert set(log.splitlines()) <= set(shown)
        assert stored_log(client, attribute) == log


def test_the_last_words_of_a_failure_are_kept(client: Host, twin: Host, hook: str | None, prefix: str) -> None:
    """They come before the error, and nothing is copied afterwards that would give them time to arrive."""
    result = build(client, twin, hook, prefix, "failing-at-length")
    assert result.returncode != 0
    assert AT_LENGTH in result.stderr
    assert stored_log(client, "failing-at-length") == AT_LENGTH
