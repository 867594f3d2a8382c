"""What somebody may not do whom a real daemon does not trust, and what a machine cannot have Nix believe."""

import shlex

import pytest

from tests.lab.host import Host
from tests.lab.install import HOOK
from tests.lab.offload import connect, nix_build

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]

OTHER_HOOK = "/usr/local/bin/other-hook"
RAN = "/run/other-hook-ran"

FORGED = '@nix {"action":"msg","level":0,"msg":"forged"}'
CLEAR_SCREEN = "\x1b[2J"


@pytest.mark.parametrize("setting", ["builders", "build-hook"])
def test_a_user_who_is_not_trusted_chooses_neither_machine_nor_hook(client: Host, twin: Host, setting: str) -> None:
    """The daemon does not pass it on; the hook that it runs and the machines that it knows stay those of root."""
    client.trust(twin)
    client.write_file(OTHER_HOOK, f"#!/bin/sh\ntouch {RAN}\n", 0o755)
    client.path(RAN).unlink(missing_ok=True)
    client.add_user("visitor")
    client.configure(hook=HOOK, builders="")
    client.start_daemon()
    value = {"builders": f"ssh-ng://{twin.name}", "build-hook": OTHER_HOOK}[setting]
    build = nix_build("from-source", seed="refused", options=["--option", setting, value])

    def obeyed(user: str) -> bool:
        result = client.run(build, user=user, check=False)
        assert "will be built" in result.stderr
        return client.path(RAN).exists() if setting == "build-hook" else result.returncode == 0

    assert not obeyed("visitor")
    assert obeyed("root")


@pytest.mark.parametrize("prefix", ["ssh-ng://", "ssh://"])
def test_what_a_login_prints_is_no_message_of_ours(client: Host, twin: Host, hook: str | None, prefix: str) -> None:
    """Nix obeys lines of a hook that look like FORGED, and shows what is in them."""
    said = "".join(
        f"printf '%b\\n' {shlex.quote(line)} >&2\n" for line in (FORGED, CLEAR_SCREEN + FORGED, CLEAR_SCREEN)
    )
    twin.write_file("/root/.bashrc", said)
    try:
        connect(client, twin, hook, prefix)
        result = client.run(nix_build("from-source", seed="forged", options=["-vv"]))
        assert "\nforged\n" not in result.stderr
        assert CLEAR_SCREEN not in result.stderr
        assert result.stderr.count(FORGED) == 2
    finally:
        twin.path("/root/.bashrc").unlink()
