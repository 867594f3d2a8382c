"""What a line of `builders` has ssh do: the key, the host key that is pinned, the address and its parameters."""

import base64

import pytest

from tests.lab.host import HOST_KEY
from tests.lab.ownssh import KEY, Site, works

pytestmark = pytest.mark.lab

LOG = "/root/ssh.log"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHnBSNwTpZKDwUxkVhGZ7rQeTIkCXpKJr6iM4Wz4mV9y"
OTHER_TYPE = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBJOHaVWh"
    "+51JlpAED7F/7c1PW6leUT4dZ8qhInlfzNJjS+rtDbdBhohPeURFBBB4FfltCSeaRYX57+azAQ65FcY="
)
"""Host keys that the builder does not have; its own is of the first one's type."""


# Keys


@pytest.mark.parametrize("machine", ["ssh-ng://127.0.0.1:{port} - {key}", "ssh-ng://127.0.0.1:{port}?ssh-key={key}"])
def test_the_key_of_the_machine_line(site: Site, machine: str) -> None:
    """Only with it: ssh's own choice of keys has none that the builder accepts."""
    site.know(site.builder)
    assert works(site.build(machine.format(port=site.builder.port, key=KEY)))
    site.client.reset_store()
    refused = site.build(machine.format(port=site.builder.port, key="/root/keys/two"), check=False)
    assert "Permission denied (publickey" in refused.stderr


def pinned(site: Site, host_key: str, form: str) -> str:
    """Return a machine line with the builder's host key, in its column or in the address."""
    address = f"ssh-ng://127.0.0.1:{site.builder.port}"
    if form == "column":
        return f"{address} - {KEY} - - - - {host_key}"
    return f"{address}?base64-ssh-public-host-key={host_key.replace('=', '%3D')} - {KEY}"


@pytest.mark.parametrize("form", ["column", "parameter"])
@pytest.mark.parametrize("config", ["", "HostKeyAlias something-else"])
def test_a_pinned_host_key_needs_no_other(site: Site, form: str, config: str) -> None:
    """Whatever name ssh looks up: all have port numbers here."""
    site.config(config)
    host_key = base64.b64encode(site.builder.read_file(HOST_KEY + ".pub").encode()).decode()
    assert works(site.build(pinned(site, host_key, form)))
    assert not site.client.path("/root/.ssh/known_hosts").exists()


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ("", OTHER_KEY),
        ("StrictHostKeyChecking no", OTHER_KEY),
        ("StrictHostKeyChecking accept-new", OTHER_TYPE),
    ],
    ids=["ask", "no", "accept-new"],
)
def test_another_host_key_than_the_pinned_one_is_refused(site: Site, config: str, key: str) -> None:
    """Even to users who let ssh accept everything: here they said which key it must be.  Asked twice, because ssh might
    have added the builder's key to the file.
    """
    site.config(config)
    host_key = base64.b64encode(key.encode()).decode()
    for _ in range(2):
        result = site.build(pinned(site, host_key, "column"), check=False)
        assert result.returncode != 0
        (line,) = (line for line in result.stderr.splitlines() if "cannot build on" in line)
        assert line.startswith(f"error: cannot build on 'ssh-ng://127.0.0.1:{site.builder.port}': ")
        assert line.endswith("failed. (it is not the key in known_hosts, or in the last column of `builders`)")


def test_a_pinned_key_is_the_only_one_whatever_ssh_config_lets_in(site: Site) -> None:
    """By each of these alone ssh would accept the builder's own key, of which the line says that it is another's."""
    known = f"[127.0.0.1]:{site.builder.port} {site.builder.read_file(HOST_KEY + '.pub')}"
    site.client.write_file("/root/known", known)
    other = base64.b64encode(OTHER_KEY.encode()).decode()
    address = f"ssh-ng://127.0.0.1:{site.builder.port} - {KEY} - - - -"
    for way in (
        "GlobalKnownHostsFile /root/known",
        "NoHostAuthenticationForLocalhost yes",
        "KnownHostsCommand /bin/cat /root/known",
    ):
        site.config(way)
        assert works(site.build(address)), way
        site.client.reset_store()
        site.builder.reset_store()
        refused = site.build(f"{address} {other}", check=False)
        assert "cannot build on" in refused.stderr, way


@pytest.mark.parametrize("pinned", [False, True])
def test_a_control_connection_of_the_user_is_none_to_a_machine_with_a_pinned_key(site: Site, pinned: bool) -> None:
    """The user's own ssh may have let another key in, or be what somebody in the middle answered."""
    config = ("StrictHostKeyChecking accept-new", "ControlMaster auto", "ControlPath /root/cm", "ControlPersist 60")
    site.config("Host *", *config)
    port = str(site.builder.port)
    site.client.run(["sh", "-c", f"ssh -i {KEY} -p {port} 127.0.0.1 true </dev/null >/dev/null 2>&1"])
    other = base64.b64encode(OTHER_KEY.encode()).decode()
    address = f"ssh-ng://127.0.0.1:{port} - {KEY} - - - -"
    try:
        site.client.run(["ssh", "-O", "check", "-p", port, "127.0.0.1"])
        result = site.build(f"{address} {other}" if pinned else address, check=False)
    finally:
        site.client.run(["ssh", "-O", "exit", "-p", port, "127.0.0.1"])
    assert ("its host key was not accepted" in result.stderr) is pinned
    assert (result.returncode == 0) is not pinned


@pytest.mark.parametrize("form", ["unpadded", "known_hosts", "bare"])
def test_a_pinned_key_may_be_written_in_other_ways(site: Site, form: str) -> None:
    """As ssh-keyscan prints it, as known_hosts has it, or as it is."""
    kind, blob, *_ = site.builder.read_file(HOST_KEY + ".pub").split()
    text = {"unpadded": f"{kind} {blob} b", "known_hosts": f"b.example.org {kind} {blob}"}
    column = blob if form == "bare" else base64.b64encode(text[form].encode()).decode().rstrip("=")
    assert works(site.build(f"ssh-ng://127.0.0.1:{site.builder.port} - {KEY} - - - - {column}"))
    assert not site.client.path("/root/.ssh/known_hosts").exists()


# Addresses


def test_user_host_and_port_in_the_address(site: Site, toor: str) -> None:
    site.know(site.builder)
    assert works(site.build(f"ssh-ng://{toor}@127.0.0.1:{site.builder.port} - {KEY}"))
    assert site.logins(site.builder)[-1] == toor


def test_an_ipv6_address_reaches_ssh_without_brackets(site: Site) -> None:
    site.know(site.builder)
    site.config("Host ::1", "HostName 127.0.0.1")
    assert works(site.build(f"ssh-ng://[::1]:{site.builder.port} - {KEY}"))


def test_compression(site: Site) -> None:
    site.know(site.builder)
    address = f"ssh-ng://127.0.0.1:{site.builder.port}"
    assert works(site.build(f"{address}?compress=true - {KEY}", NIX_SSHOPTS=f"-v -E {LOG}"))
    assert "Enabling compression" in site.client.read_file(LOG)


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
def test_remote_program(site: Site, scheme: str) -> None:
    """Words of it, split by the remote shell; it may be anything that ends in Nix."""
    site.know(site.builder)
    program = {"ssh-ng": "nix-daemon", "ssh": "nix-store"}[scheme]
    site.builder.write_file("/root/nix", f'#!/bin/sh\necho "$MARK" > /root/mark\nexec {program} "$@"\n', 0o755)
    address = f"{scheme}://127.0.0.1:{site.builder.port}?remote-program=env%20MARK=here%20/root/nix"
    assert works(site.build(f"{address} - {KEY}"))
    assert site.builder.read_file("/root/mark") == "here\n"


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
@pytest.mark.parametrize("store", ["local?root=/root/elsewhere", "local?root=/root/elsewhere%26log=/root/log"])
def test_remote_store(site: Site, scheme: str, store: str) -> None:
    """The build happens in that store, in a sandbox, the only place where its paths are right.

    Before 2.20 it is quoted for the remote shell; later this is up to the user, as with a stock hook.
    """
    if "%26" in store and site.client.nix_release() >= (2, 20):
        store = f"%27{store}%27"
    site.builder.configure(sandbox_paths="/bin /lib /lib64 /usr")
    site.know(site.builder)
    assert works(site.build(f"{scheme}://127.0.0.1:{site.builder.port}?remote-store={store} - {KEY}"))
    assert any("from-source" in path.name for path in site.builder.path("/root/elsewhere/nix/store").iterdir())
    assert not site.builder.path("/nix/store").exists()
