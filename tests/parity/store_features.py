"""Scenarios of unusual outputs and derivations (tests/lab/graphs/unusual.nix), and of what a builder fetches itself."""

import shutil
from collections.abc import Callable, Sequence

from tests.lab.host import Host, Output
from tests.lab.offload import nix_build
from tests.lab.roots import SUITES
from tests.lab.signing import PUBLIC_KEY, give_key
from tests.parity.scenarios import Scenario

CACHE = "/root/cache"
HERE = ("-j1", "--builders", "")

SHAPES = ("objects", "names", "modes", "deep", "wide", "big")
ATTRIBUTES = ("exporting", "structured", "structured.json", "passing-files", "many-outputs")


def _build(*attributes: str, options: Sequence[str] = ()) -> Callable[[Host, Host], Sequence[Output]]:
    def act(client: Host, _builder: Host) -> Sequence[Output]:
        return [client.run(nix_build(*attributes, seed="parity", graph="unusual", options=options), check=False)]

    return act


def _build_what_is_signed_there(client: Host, builder: Host) -> Sequence[Output]:
    builder.configure(secret_key_files=give_key(builder))
    return [client.run(nix_build("shapes", seed="parity"), check=False)]


def _build_from_a_cache(client: Host, builder: Host) -> Sequence[Output]:
    """Of the inputs built here, the builder can fetch one."""
    cached, _ = (
        client.run(nix_build(attribute, seed="parity", options=HERE)).stdout.strip()
        for attribute in ("from-source", "download-tree")
    )
    client.run(["nix", "copy", "--to", f"file://{CACHE}?secret-key={give_key(client)}", cached])
    shutil.copytree(client.path(CACHE), builder.path(CACHE))
    builder.configure(substituters=f"file://{CACHE}", trusted_public_keys=PUBLIC_KEY)
    # The second command finds a connection that has seen a build.
    built = [client.run(nix_build(part, seed="parity"), check=False) for part in ("download", "top")]
    assert "download-tree-parity' to " in built[1].stderr
    assert f"copying path '{cached}' to " not in built[1].stderr
    return built


def _build_on_a_read_only_mount(client: Host, _builder: Host) -> Sequence[Output]:
    """As on NixOS: whoever writes to the store first makes it writable for itself."""
    client.run(["mkdir", "-p", "/nix/store"])
    client.run(["mount", "--bind", "/nix/store", "/nix/store"])
    client.run(["mount", "-o", "remount,bind,ro", "/nix/store"])
    try:
        return [client.run(nix_build("shapes", seed="parity"), check=False)]
    finally:
        client.run(["umount", "/nix/store"])


FROM_A_CACHE = {"builders_use_substitutes": "true"}

SYNCED = {"fsync_metadata": "true", "fsync_store_paths": "true"}

SCENARIOS = (
    Scenario("shapes", _build(*SHAPES)),
    Scenario("shapes, ssh", _build(*SHAPES), prefix="ssh://"),
    Scenario("attributes", _build(*ATTRIBUTES)),
    Scenario("attributes, ssh", _build(*ATTRIBUTES), prefix="ssh://"),
    # Of so many messages, stock loses some with Nix 2.8 and 2.26.
    Scenario("many inputs", _build("many-inputs"), suites=SUITES[2:]),
    Scenario("many inputs, ssh", _build("many-inputs"), prefix="ssh://", suites=SUITES[2:]),
    Scenario("forbidden reference", _build("forbidden"), status=1),
    Scenario("preferably local, elsewhere only", _build("local")),
    Scenario("from a cache", _build_from_a_cache, settings=FROM_A_CACHE),
    Scenario("from a cache, ssh", _build_from_a_cache, prefix="ssh://", settings=FROM_A_CACHE),
    # The hook is not asked about the one, and builds the other.
    Scenario("preferably local", _build("local", "cores", options=["-j1"])),
    Scenario("cores", _build("cores", options=["--cores", "3"])),
    Scenario("cores, ssh", _build("cores", options=["--cores", "3"]), prefix="ssh://"),
    Scenario("read-only mount", _build_on_a_read_only_mount),
    Scenario("read-only mount, single user", _build_on_a_read_only_mount, daemon=False),
    Scenario("signed by the builder", _build_what_is_signed_there),
    Scenario("signed by the builder, ssh", _build_what_is_signed_there, prefix="ssh://"),
    Scenario("synced", _build("objects", "names"), settings=SYNCED, suites=SUITES[1:]),
)
