"""Which Nix is asking, told from the names of its settings."""

import struct

import pytest

from hook.values.release import FIRST_SEEN, OLDEST, Release, release_of
from tests import VECTORS

RECORDED = VECTORS / "hook"


def names_in(preamble: bytes) -> set[str]:
    """The setting names of a recorded conversation."""

    def word(offset: int) -> tuple[bytes, int]:
        (length,) = struct.unpack_from("<Q", preamble, offset)
        start = offset + 8
        return preamble[start : start + length], start + length + -length % 8

    names, offset = set(), 0
    while struct.unpack_from("<Q", preamble, offset) == (1,):
        name, offset = word(offset + 8)
        _, offset = word(offset)
        names.add(name.decode())
    return names


# 2.26 is told from 2.29 by no setting, and 2.36 need not be told from 2.35.
@pytest.mark.parametrize(
    ("recording", "release"),
    [("2.8", (2, 8)), ("2.26", (2, 29)), ("2.34", (2, 34)), ("2.35", (2, 35)), ("2.36", (2, 35))],
)
def test_a_recorded_parent_is_recognised(recording: str, release: Release) -> None:
    """What real releases sent, not what their sources say."""
    names = names_in((RECORDED / f"{recording}-ok.stdin").read_bytes())
    assert len(names) > 80
    assert release_of(names) == release


@pytest.mark.parametrize(("name", "release"), FIRST_SEEN)
def test_the_newest_setting_decides(name: str, release: Release) -> None:
    """A release has the settings of all older ones as well."""
    older = {other for other, since in FIRST_SEEN if since < release}
    assert release_of(older | {name, "builders"}) == release


def test_without_any_known_setting_it_is_the_oldest() -> None:
    """The most cautious behaviour: every newer release understands it."""
    assert release_of(["builders", "a-setting-of-tomorrow"]) == OLDEST


def test_the_table_is_ordered() -> None:
    """`release_of` stops at the first match."""
    releases = [release for _, release in FIRST_SEEN]
    assert releases == sorted(releases, reverse=True)
