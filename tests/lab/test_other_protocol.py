"""Machines on which a login runs one program, whatever it is asked for; each speaks one of the two protocols."""

import pytest

from tests.lab import roots
from tests.lab.host import Host
from tests.lab.offload import nix_build

pytestmark = [
    pytest.mark.lab,
    pytest.mark.any_hook,
    pytest.mark.parametrize("client", roots.SUITES[-1:], ids=["client"], indirect=True),
]

FORCED = "/usr/local/bin/forced"
PROGRAMS = {"ssh": "nix-store --serve --write", "ssh-ng": "nix-daemon --stdio"}


@pytest.mark.parametrize("forced", PROGRAMS)
def test_the_scheme_that_would_do_is_named_and_does(client: Host, builder: Host, hook: str | None, forced: str) -> None:
    """Both programs say the same of the other's protocol, on every release."""
    assert hook is not None, "what is tested here is better than stock's"
    client.trust(builder)
    builder.write_file(FORCED, f"#!/bin/sh\nexec {PROGRAMS[forced]}\n", 0o755)
    (wrong,) = PROGRAMS.keys() - {forced}
    command = nix_build("shapes", seed="forced", options=["-v"])
    client.configure(hook=hook, builders=f"{wrong}://{builder.name}?remote-program={FORCED}")
    refused = client.run(command, check=False)
    assert refused.returncode != 0
    assert f"protocol mismatch (a login there runs the program for '{forced}://': write that instead)" in refused.stderr
    client.configure(hook=hook, builders=f"{forced}://{builder.name}?remote-program={FORCED}")
    client.stop_broker()
    client.run(command)
