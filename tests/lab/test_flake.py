"""The flake and its module, evaluated by a real Nix against a stand-in for nixpkgs: these hosts have no network.

The stand-in refuses arguments that nixpkgs does not have here, options of other names and values of other types.
"""

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest

import hook
from hook.config import KEYS
from tests.lab.host import Host
from tests.lab.install import SOURCES
from tests.lab.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]

FLAKE = "/srv/flake"
NIXPKGS = "/srv/nixpkgs"
NIX = ["nix", "--extra-experimental-features", "nix-command flakes"]


@pytest.fixture
def flake(lab: Lab, fresh: Callable[[Host], Host]) -> Host:
    """A host with what the flake consists of."""
    host = fresh(lab.client("sid"))
    shutil.copytree(SOURCES / "nix", host.path(f"{FLAKE}/nix"), dirs_exist_ok=True)
    for name in ("flake.nix", "pyproject.toml", "hook/__init__.py"):
        host.write_file(f"{FLAKE}/{name}", (SOURCES / name).read_bytes())
    shutil.copytree(SOURCES / "tests/lab/nixpkgs", host.path(NIXPKGS), dirs_exist_ok=True)
    return host


def configuration(host: Host, settings: str, release: str) -> Any:
    """What the module makes of `services.nix-ferry = settings` with a Nix of that release."""
    expression = f"""
      let
        lib = import {NIXPKGS}/lib.nix;
        pkgs = import {NIXPKGS}/pkgs.nix "x86_64-linux";
        given = {{ inherit lib pkgs; config.nix.package.version = "{release}"; }};
      in
      lib.evaluate (import {FLAKE}/nix/nixos.nix) [ "services" "nix-ferry" ] {settings} given
    """
    return json.loads(host.run(["nix-instantiate", "--eval", "--strict", "--json", "--expr", expression]).stdout)


def test_the_flake_has_a_package_and_a_module(flake: Host) -> None:
    """The package for both systems, with the version that the program tells."""
    command = [*NIX, "flake", "show", "--json", "--all-systems", "--no-write-lock-file"]
    shown = json.loads(flake.run([*command, "--override-input", "nixpkgs", NIXPKGS, f"path:{FLAKE}"]).stdout)
    assert set(shown["packages"]) == {"aarch64-linux", "x86_64-linux"}
    for outputs in shown["packages"].values():
        assert outputs["default"]["name"] == f"nix-ferry-{hook.__version__}"
    assert shown["nixosModules"]["default"]["type"] == "nixos-module"


def test_the_module_has_the_daemon_run_the_hook(flake: Host) -> None:
    """By nix.conf, and for the releases that ignore it there by the environment of the daemon."""
    made = configuration(flake, "{ enable = true; }", "2.34.8")
    program = made["nix"]["settings"]["build-hook"]
    assert program.endswith(f"-nix-ferry-{hook.__version__}/bin/nix-ferry-hook")
    assert made["systemd"]["services"]["nix-daemon"]["environment"] is None
    assert made["environment"]["etc"]["nix/ferry.toml"] is None
    (package,) = made["environment"]["systemPackages"]
    assert program.startswith(f"{package}/")
    for release, set_there in (("2.24.9", False), ("2.25.0", True), ("2.33.6", True), ("2.34.0", False)):
        made = configuration(flake, "{ enable = true; }", release)
        environment = made["systemd"]["services"]["nix-daemon"]["environment"]
        assert environment == ({"NIX_CONFIG": f"build-hook = {program}"} if set_there else None)


def test_settings_become_ferry_toml(flake: Host) -> None:
    """Whatever keys there are: the module knows none by name."""
    made = configuration(flake, "{ enable = true; settings.connect-timeout = 10; }", "2.34.8")
    assert "connect-timeout" in {key.name for key in KEYS}
    assert made["environment"]["etc"]["nix/ferry.toml"] == {"source": 'ferry.toml: {"connect-timeout":10}'}


def test_without_enable_nothing_is_configured(flake: Host) -> None:
    assert configuration(flake, "{ }", "2.34.8") is None
