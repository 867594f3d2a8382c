"""Every way to use a hook on a client: through a daemon, single user, in a chroot store; and every way to name it.

What shows that Nix runs our hook, and no other, is a script between them that leaves a mark.
"""

import pytest

from tests.lab.host import Host
from tests.lab.offload import MARK, MARKED_HOOK, connect, mark, nix_build

pytestmark = pytest.mark.lab


@pytest.fixture
def marked(client: Host) -> Host:
    """The client, with a hook that shows that it ran."""
    mark(client)
    return client


def greeting(host: Host, out: str, prefix: str = "/nix") -> str:
    """Return what the derivation `from-source` wrote."""
    return host.read_file(f"{prefix}{out.strip().removeprefix('/nix')}/greeting")


def test_through_a_daemon(marked: Host, other_builder: Host) -> None:
    """The daemon runs the hook, also for a user who may not write to the store."""
    connect(marked, other_builder, MARKED_HOOK)
    marked.start_daemon()
    marked.add_user("alice")
    out = marked.run(nix_build("from-source", seed="user"), user="alice").stdout
    assert greeting(marked, out) == "hello, user\n"
    assert marked.path(MARK).exists()


def test_as_a_single_user(marked: Host, other_builder: Host) -> None:
    connect(marked, other_builder, MARKED_HOOK)
    out = marked.run(nix_build("from-source", seed="single")).stdout
    assert greeting(marked, out) == "hello, single\n"
    assert marked.path(MARK).exists()
    marked.run(["nix-store", "--verify", "--check-contents"])


def test_into_a_chroot_store(marked: Host, other_builder: Host) -> None:
    """Nothing goes to the host's own store."""
    connect(marked, other_builder, MARKED_HOOK)
    store = ["--store", "/root/chroot"]
    out = marked.run(nix_build("from-source", seed="chroot", options=store)).stdout
    assert greeting(marked, out, "/root/chroot/nix") == "hello, chroot\n"
    assert not marked.path("/nix/store").exists()
    assert marked.path(MARK).exists()
    marked.run(["nix-store", *store, "--verify", "--check-contents"])


@pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "single-user"])
def test_nix_conf_is_enough_except_for_the_releases_that_ignore_it(
    marked: Host, other_builder: Host, daemon: bool
) -> None:
    """Nix 2.25 to 2.33 overwrite `build-hook` after they have read the system's nix.conf."""
    connect(marked, other_builder, None, build_hook=MARKED_HOOK)
    if daemon:
        marked.start_daemon()
    out = marked.run(nix_build("from-source", seed="nix.conf")).stdout
    assert greeting(marked, out) == "hello, nix.conf\n"
    assert marked.path(MARK).exists() == (not (2, 25) <= marked.nix_release() < (2, 34))


def test_a_users_configuration_file_is_enough_on_every_release(marked: Host, other_builder: Host) -> None:
    """What a single user of Nix 2.25 to 2.33 can do instead of setting NIX_CONFIG."""
    connect(marked, other_builder, None)
    marked.write_file("/root/.config/nix/nix.conf", f"build-hook = {MARKED_HOOK}\n")
    out = marked.run(nix_build("from-source", seed="user.conf")).stdout
    assert greeting(marked, out) == "hello, user.conf\n"
    assert marked.path(MARK).exists()
