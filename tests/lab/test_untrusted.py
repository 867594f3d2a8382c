"""Builders that do not trust the user who logs in, of every release, by both protocols."""

import pytest

from tests.lab.host import Host, Output
from tests.lab.lab import Lab
from tests.lab.offload import connect, nix_build
from tests.lab.signing import PUBLIC_KEY, sign_all

pytestmark = pytest.mark.lab

NOT_PRIVILEGED = "you are not privileged to build input-addressed derivations"
UNSIGNED = ("lacks a signature by a trusted key", "lacks a valid signature")


def build(client: Host, builder: Host, hook: str | None, prefix: str, *, signed: bool) -> Output:
    """Build something whose only input was built here."""
    builder.configure(trusted_users="root", trusted_public_keys=PUBLIC_KEY)
    builder.add_user("visitor")
    builder.start_daemon()
    connect(client, builder, hook, prefix)
    client.run(nix_build("from-source", seed="untrusted", options=["-j1", "--builders", ""]))
    if signed:
        sign_all(client)
    return client.run(nix_build("shapes", seed="untrusted", options=["-v"]), check=False)


def refusal(result: Output, *words: str) -> str:
    """Return the one line that says why the build was refused."""
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: build of ")]
    assert any(word in line for word in words), line
    return line


@pytest.fixture(autouse=True)
def _ours(hook: str | None) -> None:
    assert hook is not None, "what is tested here is better than stock's"


def test_signed_inputs_are_enough_for_daemons_that_say_whom_they_trust(
    client: Host, builder: Host, hook: str | None
) -> None:
    """Whatever the client's release; stock needs 2.16.  Older daemons build such things for trusted users only."""
    result = build(client, builder, hook, "ssh-ng://visitor@", signed=True)
    assert "handing" not in result.stderr
    if builder.nix_release() < (2, 15):
        assert "`trusted-users`" in refusal(result, NOT_PRIVILEGED)
    else:
        assert result.returncode == 0, result.stderr
        out = result.stdout.strip()
        assert client.read_file(f"{out}/self") == f"out is at {out}\n"
    client.run(["nix-store", "--verify", "--check-contents"])


def test_a_missing_signature_is_explained(client: Host, builder: Host, hook: str | None) -> None:
    """Both remedies in one line."""
    result = build(client, builder, hook, "ssh-ng://visitor@", signed=False)
    line = refusal(result, *UNSIGNED)
    assert "`trusted-users`" in line
    assert "`trusted-public-keys`" in line
    assert "handing" not in result.stderr


def test_the_serve_protocol_needs_trust(client: Host, builder: Host, hook: str | None) -> None:
    """There the reason comes on standard error, and the connection just ends."""
    result = build(client, builder, hook, "ssh://visitor@", signed=True)
    assert "`trusted-users`" in refusal(result, NOT_PRIVILEGED)
    assert "handing" not in result.stderr


@pytest.mark.parametrize("prefix", ["ssh-ng://", "ssh://"])
def test_what_this_host_can_build_is_not_refused(
    lab: Lab, client: Host, builder: Host, hook: str | None, prefix: str
) -> None:
    """Where the machine says whom it trusts, from the first build on; else after a refusal, which brokers remember."""
    says = prefix == "ssh-ng://" and builder.nix_release() >= (2, 15)
    if not says:
        lab.standalone(False)
    build(client, builder, hook, f"{prefix}visitor@", signed=False)
    result = client.run(nix_build("shapes", seed="untrusted", options=["-v", "-j1"]))
    assert not any(line.startswith("error:") for line in result.stderr.splitlines())
    why = (
        "it does not trust the user that logs in there, and nobody has signed the input" if says else "`trusted-users`"
    )
    assert why in result.stderr
