"""Where the store is: each form of the `store` setting, each variable, each parameter."""

from dataclasses import replace
from pathlib import Path

import pytest

from hook.errors import StockOnly, StoreError
from hook.store.location import StoreLocation, find_store

DEFAULT = StoreLocation("/nix/store", "/nix/store", "/nix/var/nix", "/nix/var/log/nix")
CHROOT = StoreLocation("/nix/store", "/r/nix/store", "/r/nix/var/nix", "/r/nix/var/log/nix")


@pytest.mark.parametrize(
    ("uri", "environ", "expected"),
    [
        ("local", {}, DEFAULT),
        ("local", {"NIX_STORE": "/n/store"}, replace(DEFAULT, store_dir="/n/store", real_store_dir="/n/store")),
        (
            "local",
            {"NIX_STORE_DIR": "/n/store", "NIX_STORE": "/x", "NIX_STATE_DIR": "/n/state/", "NIX_LOG_DIR": "/n//log"},
            StoreLocation("/n/store", "/n/store", "/n/state", "/n/log"),
        ),
        ("/r", {"NIX_STATE_DIR": "/n"}, CHROOT),
        ("local?root=/r", {}, CHROOT),
        ("local?root=%2fr", {}, CHROOT),
        ("/r?require-sigs=false&priority=3", {}, CHROOT),
        ("local?root=/r&state=/s&real=/real&log=/l", {}, StoreLocation("/nix/store", "/real", "/s", "/l")),
        ("local?root=/r&store=/n/store", {}, replace(CHROOT, store_dir="/n/store")),
        ("local?read-only=false", {}, DEFAULT),
        ("local://", {}, DEFAULT),
        ("local://?root=/r", {}, CHROOT),
        ("local:///r", {}, CHROOT),
    ],
)
def test_directories_are_those_nix_uses(uri: str, environ: dict[str, str], expected: StoreLocation) -> None:
    """Written anywhere else, an output would not be where the parent looks."""
    assert find_store(uri, environ) == expected


@pytest.mark.parametrize(
    "uri",
    [
        "daemon",
        "unix:///nix/var/nix/daemon-socket/socket",
        "ssh-ng://machine",
        "https://cache.example.org",
        "dummy://",
        "local://relative",
        "./relative",
        "local?root=relative",
        "local?read-only=true",
        "local?root=/r&unheard-of=1",
        "local-overlay://?root=/r",
    ],
)
def test_other_stores_are_left_to_stock(uri: str) -> None:
    """What is not understood is not touched."""
    with pytest.raises(StockOnly):
        find_store(uri, {})


@pytest.mark.parametrize("uri", ["", "auto"])
def test_auto_is_local_where_the_state_is_ours(tmp_path: Path, uri: str) -> None:
    """Root, or a single-user installation; everybody else talks to a daemon."""
    assert find_store(uri, {"NIX_STATE_DIR": str(tmp_path)}).state_dir == str(tmp_path)
    with pytest.raises(StockOnly, match="daemon"):
        find_store(uri, {"NIX_STATE_DIR": str(tmp_path / "absent")})


@pytest.mark.parametrize("uri", ["local?root=%", "local?root=%2", "local?root=%zz", "local?root=%+f"])
def test_bad_encoding_is_an_error(uri: str) -> None:
    """Guessing a directory is no option."""
    with pytest.raises(StoreError, match="badly encoded"):
        find_store(uri, {})
