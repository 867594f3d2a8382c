"""What a derivation asks for, with plain and with structured attributes."""

import json

import pytest

from hook.errors import StoreError
from hook.values.derivation import Derivation, DerivationOutput
from hook.values.requirements import prefers_local_build, required_features

PATH = "/nix/store/00000000000000000000000000000001-a"


def derivation(path: str = PATH, **env: str) -> Derivation:
    pairs = tuple(sorted((name.encode(), value.encode()) for name, value in env.items()))
    output = DerivationOutput(path, "", "") if path else DerivationOutput("", "r:sha256", "")
    return Derivation((("out", output),), (), (), "x86_64-linux", b"/bin/sh", (), pairs)


def structured(**attributes: object) -> Derivation:
    return derivation(__json=json.dumps(attributes), requiredSystemFeatures="ignored", preferLocalBuild="1")


@pytest.mark.parametrize(
    ("asks", "features"),
    [
        (derivation(), set()),
        (derivation(requiredSystemFeatures=" kvm\tbig-parallel\n"), {"kvm", "big-parallel"}),
        (structured(), set()),
        (structured(requiredSystemFeatures=["kvm", "nixos-test"]), {"kvm", "nixos-test"}),
        (derivation(path="", requiredSystemFeatures="kvm"), {"kvm", "ca-derivations"}),
    ],
)
def test_features_are_words_or_a_list(asks: Derivation, features: set[str]) -> None:
    """And outputs without a path of their own need a feature that nobody has to write down."""
    assert required_features(asks) == features


@pytest.mark.parametrize(
    ("asks", "prefers"),
    [
        (derivation(), False),
        (derivation(preferLocalBuild="1"), True),
        (derivation(preferLocalBuild=""), False),
        (structured(), False),
        (structured(preferLocalBuild=True), True),
        (structured(preferLocalBuild=False), False),
    ],
)
def test_preferring_this_host_is_a_flag(asks: Derivation, prefers: bool) -> None:
    assert prefers_local_build(asks) is prefers


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_structured_attributes_that_are_none_are_an_error(text: str) -> None:
    with pytest.raises(StoreError, match="structured attributes"):
        required_features(derivation(__json=text))
