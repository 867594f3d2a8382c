import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hook.errors import NarError
from hook.store.nar import Restorer
from tests import VECTORS
from tests.leaks import no_leaks
from tests.oracles import File, Invalid, Symlink, entry, harvest, nar, parse_nar, plant, string
from tests.scratch import dump, node, restore, scratch
from tests.trees import files, odd_names, symlinks, trees
from tests.vectors.nar.make import NARS

RECORDED = VECTORS / "nar"
STOCK_DEPTH = 63


@pytest.fixture
def place() -> Iterator[str]:
    with scratch() as path:
        yield path


@pytest.fixture(autouse=True)
def no_descriptor_stays_open() -> Iterator[None]:
    """Whatever a test provokes."""
    with no_leaks():
        yield


def directory_of(*entries: bytes) -> bytes:
    """The NAR of a directory with these entries, right or wrong."""
    return nar({}).removesuffix(string(b")")) + b"".join(string(b"entry") + e for e in entries) + string(b")")


# Agreement with the reference


@given(trees, st.integers(1, 5000))
def test_a_dump_is_the_nar_of_the_tree(tree, buffer_bytes):
    """Byte for byte, whatever the size of the buffer: the hash of a store path depends on it."""
    with scratch() as place:
        plant(tree, os.fsencode(place) + b"/x")
        assert dump(f"{place}/x", buffer_bytes) == nar(tree)


@given(trees, st.lists(st.integers(0, 20000)), st.binary(max_size=9))
def test_a_restored_tree_is_the_tree_of_the_nar(tree, cuts, rest):
    """In canonical form, whatever pieces the NAR comes in; bytes behind it are left for the next reader."""
    data = nar(tree)
    with scratch() as place:
        assert restore(data + rest, f"{place}/x", cuts) == len(data)
        assert harvest(os.fsencode(place) + b"/x") == tree


@settings(max_examples=30)
@given(st.dictionaries(odd_names, files | symlinks, min_size=1, max_size=2))
def test_a_nar_may_come_byte_by_byte(tree):
    data = nar(tree)
    with scratch() as place:
        assert restore(data, f"{place}/x", list(range(len(data)))) == len(data)
        assert harvest(os.fsencode(place) + b"/x") == tree


@settings(max_examples=300)
@given(trees, st.data())
def test_changed_bytes_are_judged_as_by_the_reference(tree, data):
    """Accepted with the same result, refused, or incomplete: never anything in between, and nothing outside."""
    damaged = bytearray(nar(tree))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        if data.draw(st.booleans()):
            damaged[at] = data.draw(st.integers(0, 255))
        else:
            words = [
                string(w) for w in (b"(", b")", b"entry", b"contents", b"executable", b"a", b"", b"..", b"directory")
            ]
            damaged[at & ~7 : at & ~7] = data.draw(st.sampled_from(words))
    try:
        expected = parse_nar(bytes(damaged), STOCK_DEPTH)
    except Invalid:
        expected = "invalid"
    except EOFError:
        expected = "incomplete"
    with scratch() as place:
        dest = f"{place}/x"
        try:
            consumed = restore(bytes(damaged), dest, [at], STOCK_DEPTH)
        except NarError:
            outcome = "invalid"
        else:
            complete = expected not in ("invalid", "incomplete")
            outcome = (harvest(os.fsencode(dest)), consumed) if complete else "incomplete"
        assert outcome == expected
        assert os.listdir(place) in ([], ["x"])


# Fixtures


@pytest.mark.parametrize("file", sorted(RECORDED.glob("ok-*.nar")), ids=lambda f: f.stem)
def test_a_good_nar_is_accepted_and_dumps_to_itself(file, place):
    data = file.read_bytes()
    size = restore(data, f"{place}/x", max_depth=STOCK_DEPTH)
    assert (harvest(os.fsencode(place) + b"/x"), size) == parse_nar(data)
    assert dump(f"{place}/x", max_depth=STOCK_DEPTH) == data[:size]


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("depth-64", "NAR directory nesting exceeds maximum depth of 64"),
        ("dup", "NAR directory is not sorted"),
        ("dup-symlink", "NAR directory is not sorted"),
        ("entry-order", "expected tag 'name', got 'node'"),
        ("exec-marker", "executable marker has non-empty value"),
        ("field-order", "expected tag ')', got 'executable'"),
        ("magic", "input doesn't look like a Nix archive"),
        ("name-256", "string is too long"),
        ("name-dot", "NAR contains invalid file name '.'"),
        ("name-dotdot", "NAR contains invalid file name '..'"),
        ("name-empty", "NAR contains invalid file name ''"),
        ("name-nul", "NAR contains invalid file name 'a\\x00b'"),
        ("name-slash", "NAR contains invalid file name 'a/b'"),
        ("no-contents", "expected tag 'contents', got ')'"),
        ("no-target", "expected tag 'target', got ')'"),
        ("no-type", "expected tag 'type', got ')'"),
        ("order", "NAR directory is not sorted"),
        ("padding", "non-zero padding"),
        ("symlink-4096", "string is too long"),
        ("symlink-empty", "invalid symlink target"),
        ("symlink-nul", "invalid symlink target"),
        ("two-contents", "expected tag ')', got 'contents'"),
        ("type", "unknown file type 'fifo'"),
    ],
)
def test_a_bad_nar_is_refused(case, text, place):
    """For good: the restorer does not recover, and nothing but the destination was touched."""
    data = (RECORDED / f"bad-{case}.nar").read_bytes()
    with Restorer(f"{place}/x", max_depth=STOCK_DEPTH) as restorer:
        for _ in range(2):
            with pytest.raises(NarError) as caught:
                restorer.feed(data)
            assert str(caught.value).endswith(f"': {text}")
        assert not restorer.done
    assert os.listdir(place) in ([], ["x"])


def test_a_truncated_nar_is_never_done(place):
    data = (RECORDED / "bad-truncated.nar").read_bytes()
    with Restorer(f"{place}/x") as restorer:
        assert restorer.feed(data) == len(data)
        assert not restorer.done
        with pytest.raises(ValueError, match="not ended"):
            restorer.digest()


def test_the_fixtures_are_those_that_are_tested():
    """A fixture that nobody reads, or that no longer is what its description says, proves nothing."""
    assert {file.stem: file.read_bytes() for file in RECORDED.glob("*.nar")} == NARS
    tested = next(mark for mark in test_a_bad_nar_is_refused.pytestmark if mark.name == "parametrize").args[1]
    assert {f"bad-{case}" for case, _ in tested} | {"bad-truncated"} == {
        name for name in NARS if name.startswith("bad-")
    }


# Attacks


def test_an_existing_destination_is_left_alone(place):
    """Whatever it is: a store path may be there already, or a symlink that somebody hopes we follow."""
    Path(place, "file").write_text("mine")
    Path(place, "dir").mkdir()
    Path(place, "link").symlink_to("elsewhere")
    before = sorted((p.name, p.lstat().st_mode) for p in Path(place).iterdir())
    for name in ("file", "dir", "link"):
        for tree in (File(b"yours"), Symlink(b"yours"), {b"a": File(b"yours")}):
            with pytest.raises(FileExistsError) as caught:
                restore(nar(tree), f"{place}/{name}")
            assert caught.value.filename == f"{place}/{name}"
    assert sorted((p.name, p.lstat().st_mode) for p in Path(place).iterdir()) == before
    assert Path(place, "file").read_text() == "mine"
    assert list(Path(place, "dir").iterdir()) == []


def test_a_symlink_is_not_followed_by_a_later_directory(place):
    """CVE-2024-45593: an entry that repeats a symlink's name must not be unpacked through it."""
    os.mkdir(f"{place}/outside")
    link = entry(b"a", node(Symlink(b"../outside")))
    through = entry(b"a", node({b"evil": File(b"")}))
    with pytest.raises(NarError, match="not sorted"):
        restore(directory_of(link, through), f"{place}/x")
    assert os.listdir(f"{place}/outside") == []


def test_quoted_bytes_cannot_drive_a_terminal(place):
    with pytest.raises(NarError) as caught:
        restore(directory_of(entry(b"\x1b[2J\xe2\x80\xae\xff/", node({}))), f"{place}/x")
    assert str(caught.value) == f"'{place}/x': NAR contains invalid file name '\\x1b[2J\\u202e\\udcff/'"


def test_a_directory_swapped_for_a_symlink_is_not_entered(place):
    """Somebody with access to the destination replaces a directory while it is filled: we stay in the old one."""
    os.mkdir(f"{place}/outside")
    data = nar({b"d": {b"a": File(b"first"), b"b": File(b"second")}})
    with Restorer(f"{place}/x") as restorer:
        cut = data.index(b"second")
        restorer.feed(data[:cut])
        os.rename(f"{place}/x/d", f"{place}/moved")
        os.symlink(f"{place}/outside", f"{place}/x/d")
        restorer.feed(data[cut:])
    assert os.listdir(f"{place}/outside") == []
    assert sorted(os.listdir(f"{place}/moved")) == ["a", "b"]


# Stock


@pytest.mark.lab
@settings(max_examples=25)
@given(trees)
def test_stock_reads_and_writes_the_same_nar(tree):
    with scratch() as place:
        plant(tree, os.fsencode(place) + b"/x")
        dumped = subprocess.run(["nix-store", "--dump", f"{place}/x"], check=True, capture_output=True).stdout
        assert dump(f"{place}/x") == dumped
        subprocess.run(["nix-store", "--restore", f"{place}/y"], check=True, input=dumped)
        assert dump(f"{place}/y") == dumped
