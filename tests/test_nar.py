import contextlib
import errno
import hashlib
import itertools
import os
import resource
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hook.errors import NarError
from hook.nar import Dumper, Restorer
from tests.oracles import File, Invalid, Symlink, Tree, entry, harvest, nar, parse_nar, plant, string
from tests.vectors.nar.make import NARS

VECTORS = Path(__file__).parent / "vectors" / "nar"
STOCK_DEPTH = 63

names = st.binary(min_size=1, max_size=255).filter(lambda n: n not in (b".", b"..") and not {0, 47} & set(n))
odd_names = st.sampled_from([b"-", b"...", b".hidden", b"\xff\xfe", b"a", b"A", b"a\n", b"\x1b[31m", b"n" * 255])
files = st.builds(File, st.binary(max_size=40) | st.integers(0, 20000).map(lambda n: b"x" * n), st.booleans())
symlinks = st.builds(Symlink, st.binary(min_size=1, max_size=300).map(lambda t: t.replace(b"\0", b"0")))
trees = st.recursive(
    files | symlinks, lambda child: st.dictionaries(names | odd_names, child, max_size=6), max_leaves=12
)


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """A directory that goes away with everything in it, however deep and however read-only."""
    path = tempfile.mkdtemp()
    try:
        yield path
    finally:
        subprocess.run(["chmod", "-R", "u+rwx", path], check=True)
        subprocess.run(["rm", "-rf", path], check=True)


@pytest.fixture
def place() -> Iterator[str]:
    with scratch() as path:
        yield path


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Every test, whatever it provokes, leaves as many descriptors as it found."""
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


def read_all(dumper: Dumper, buffer: bytearray) -> bytes:
    out = bytearray()
    while size := dumper.read_into(buffer):
        out += buffer[:size]
    return bytes(out)


def dump(path: str, buffer_bytes: int = 1 << 16, max_depth: int | None = None) -> bytes:
    buffer = bytearray(buffer_bytes)
    with Dumper(path, max_depth) as dumper:
        out = read_all(dumper, buffer)
        assert dumper.read_into(buffer) == 0
        assert dumper.size == len(out)
        assert dumper.digest() == hashlib.sha256(out).digest()
    return out


def restore(data: bytes, dest: str, cuts: list[int] | None = None, max_depth: int | None = None) -> int:
    """Feed `data`, cut at `cuts`; the number of bytes consumed, all of them if the NAR did not end."""
    edges = [0, *sorted(cut for cut in cuts or [] if cut < len(data)), len(data)]
    with Restorer(dest, max_depth=max_depth) as restorer:
        for start, end in itertools.pairwise(edges):
            consumed = restorer.feed(memoryview(data)[start:end])
            if restorer.done:
                break
            assert consumed == end - start
        if restorer.done:
            assert restorer.feed(b"more") == 0
            assert restorer.digest() == hashlib.sha256(data[: restorer.size]).digest()
        return restorer.size


def nested(levels: int, inside: bytes) -> bytes:
    """The NAR of `levels` directories called d, around a node."""
    opening = string(b"(") + string(b"type") + string(b"directory") + string(b"entry") + string(b"(")
    opening += string(b"name") + string(b"d") + string(b"node")
    return string(b"nix-archive-1") + opening * levels + inside + string(b")") * 2 * levels


def node(tree: Tree) -> bytes:
    return nar(tree)[len(string(b"nix-archive-1")) :]


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


@pytest.mark.parametrize("file", sorted(VECTORS.glob("ok-*.nar")), ids=lambda f: f.stem)
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
    data = (VECTORS / f"bad-{case}.nar").read_bytes()
    with Restorer(f"{place}/x", max_depth=STOCK_DEPTH) as restorer:
        for _ in range(2):
            with pytest.raises(NarError) as caught:
                restorer.feed(data)
            assert str(caught.value).endswith(f"': {text}")
        assert not restorer.done
    assert os.listdir(place) in ([], ["x"])


def test_a_truncated_nar_is_never_done(place):
    data = (VECTORS / "bad-truncated.nar").read_bytes()
    with Restorer(f"{place}/x") as restorer:
        assert restorer.feed(data) == len(data)
        assert not restorer.done
        with pytest.raises(ValueError, match="not ended"):
            restorer.digest()


def test_the_fixtures_are_those_that_are_tested():
    """A fixture that nobody reads, or that no longer is what its description says, proves nothing."""
    assert {file.stem: file.read_bytes() for file in VECTORS.glob("*.nar")} == NARS
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


# Size and depth


@pytest.mark.parametrize("levels", [31, 32, 33, 34, 64, 10_000])
def test_depth_costs_neither_stack_nor_descriptors(levels, place):
    """32 directories stay open, the others are opened again on the way back."""
    data = nested(levels, node(File(b"deep")))
    used = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 50, hard))
    try:
        assert restore(data, f"{place}/x") == len(data)
        assert dump(f"{place}/x") == data
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_siblings_at_every_depth_are_found_again(place):
    """What follows a deep directory lands beside it, not somewhere inside."""
    tree: Tree = {}
    for _ in range(100):
        tree = {b"a": File(b"1"), b"d": tree, b"z": File(b"2")}
    data = nar(tree)
    assert restore(data, f"{place}/x") == len(data)
    assert harvest(os.fsencode(place) + b"/x") == tree
    assert dump(f"{place}/x") == data


def test_a_directory_of_100_000_entries(place):
    tree: Tree = {b"%d" % number: Symlink(b"t") for number in range(100_000)}
    data = nar(tree)
    assert restore(data, f"{place}/x") == len(data)
    assert dump(f"{place}/x") == data


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_both_directions_have_the_same_depth_limit(limit, place):
    """Nix counts nodes from the root, which is at depth 0."""
    restore(nested(limit, node({})), f"{place}/good", max_depth=limit)
    assert dump(f"{place}/good", max_depth=limit) == nested(limit, node({}))
    restore(nested(limit + 1, node({})), f"{place}/deep")
    expected = f"NAR directory nesting exceeds maximum depth of {limit + 1}"
    with pytest.raises(NarError, match=expected):
        restore(nested(limit + 1, node({})), f"{place}/bad", max_depth=limit)
    with pytest.raises(NarError, match=expected):
        dump(f"{place}/deep", max_depth=limit)


# Canonical form


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as the kernel takes it: version 2, then (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *item) for item in entries)


OPEN_TO_A_STRANGER = acl(
    (1, 7, 0xFFFFFFFF), (2, 7, 12345), (4, 7, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 7, 0xFFFFFFFF)
)
PLAIN_TREE: Tree = {b"a": File(b"1"), b"b": File(b"2", True), b"d": {b"c": File(b"3"), b"l": Symlink(b"t")}}


def xattrs(top: str) -> set[str]:
    paths = [top] + [os.path.join(where, name) for where, dirs, files in os.walk(top) for name in dirs + files]
    return {xattr for path in paths for xattr in os.listxattr(path, follow_symlinks=False)}


def test_inherited_acls_are_removed(place):
    """The parent's default ACL would let a stranger write to a store object."""
    os.setxattr(place, "system.posix_acl_default", OPEN_TO_A_STRANGER)
    restore(nar(PLAIN_TREE), f"{place}/x")
    assert xattrs(f"{place}/x") == set()
    assert harvest(os.fsencode(place) + b"/x") == PLAIN_TREE
    restore(nar(File(b"")), f"{place}/y")
    assert xattrs(f"{place}/y") == set()


def test_attributes_to_keep_are_kept(place):
    kept = ["system.posix_acl_access", "system.posix_acl_default"]
    os.setxattr(place, kept[1], OPEN_TO_A_STRANGER)
    for keep in ([], kept[:1], kept[1:], kept):
        dest = f"{place}/{len(keep)}{keep[:1]}"
        with Restorer(dest, kept_xattrs=["security.selinux", *keep]) as restorer:
            restorer.feed(nar(PLAIN_TREE))
        assert xattrs(dest) - {"security.selinux"} == set(keep)


def test_setgid_is_not_inherited(place):
    os.chmod(place, 0o2755)
    restore(nar({b"d": {}}), f"{place}/x")
    assert harvest(os.fsencode(place) + b"/x") == {b"d": {}}


def test_the_umask_does_not_matter(place):
    old = os.umask(0o077)
    try:
        restore(nar(PLAIN_TREE), f"{place}/x")
    finally:
        os.umask(old)
    assert harvest(os.fsencode(place) + b"/x") == PLAIN_TREE


def test_access_times_are_not_set(place):
    restore(nar(File(b"")), f"{place}/x")
    assert os.stat(f"{place}/x").st_atime > 1


def test_fsync_gives_the_same_tree(place):
    with Restorer(f"{place}/x", fsync=True) as restorer:
        restorer.feed(nar(PLAIN_TREE))
        assert restorer.done
    assert harvest(os.fsencode(place) + b"/x") == PLAIN_TREE


# Errors


def test_what_a_nar_cannot_hold_is_named(place):
    os.mkdir(f"{place}/x")
    os.mkfifo(f"{place}/x/fifo")
    with pytest.raises(NarError, match=f"^'{place}/x/fifo': unsupported file type$"):
        dump(f"{place}/x")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{place}/socket")
        with pytest.raises(NarError, match="unsupported file type"):
            dump(f"{place}/socket")
    with pytest.raises(NarError, match="unsupported file type"):
        dump("/dev/null")


@pytest.mark.parametrize("change", [b"", b"x" * 99_999, b"x" * 100_001, b"x" * 300_000])
@pytest.mark.parametrize("step", [1000, 1 << 20])
def test_a_file_that_changes_its_size_is_no_nar(change, step, place):
    """Its size is sent before its contents, so what follows would be nonsense."""
    path = Path(place, "x")
    path.write_bytes(b"x" * 100_000)
    buffer = bytearray(step)
    with Dumper(str(path)) as dumper:
        dumper.read_into(bytearray(100))
        path.write_bytes(change)
        for _ in range(2):
            with pytest.raises(NarError, match="changed its size"):
                read_all(dumper, buffer)


def test_a_file_whose_end_meets_the_end_of_the_buffer(place):
    """The check for growth needs a byte more than the file has, wherever the buffer ends."""
    path = Path(place, "x")
    for size in (0, 1, 7, 8, 9, 64):
        path.write_bytes(b"x" * size)
        whole = nar(File(b"x" * size))
        for buffer_bytes in range(1, len(whole) + 2):
            assert dump(str(path), buffer_bytes) == whole


def test_os_errors_name_the_file(place):
    with pytest.raises(FileNotFoundError) as caught:
        dump(f"{place}/none")
    assert caught.value.filename == f"{place}/none"
    with pytest.raises(FileNotFoundError):
        Restorer(f"{place}/none/x")
    with pytest.raises(NotADirectoryError):
        Restorer("/dev/null/x")
    for dest in (f"{place}/", f"{place}/.", f"{place}/..", ""):
        with pytest.raises(OSError, match="Invalid argument"):
            Restorer(dest)


def test_a_vanished_file_is_named(place):
    tree: Tree = {b"d": {b"a": File(b"1" * 100), b"b": File(b"2")}}
    plant(tree, os.fsencode(place) + b"/x")
    with Dumper(f"{place}/x") as dumper:
        dumper.read_into(bytearray(nar(tree).index(b"1" * 50)))
        os.unlink(f"{place}/x/d/b")
        with pytest.raises(FileNotFoundError) as caught:
            read_all(dumper, bytearray(100))
        assert caught.value.filename == f"{place}/x/d/b"


def test_a_failed_write_names_the_file(place):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            restore(nar({b"d": {b"big": File(b"x" * 2000)}}), f"{place}/x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, f"{place}/x/d/big")


def test_a_long_path_in_an_error_keeps_its_end(place):
    data = nested(2000, node({b"bad": File(b"")}).replace(string(b"bad"), string(b"/")))
    with pytest.raises(NarError) as caught:
        restore(data, f"{place}/x")
    text = str(caught.value)
    assert text.startswith(f"'{place}/x/…")
    assert text.endswith("/d/d': NAR contains invalid file name '/'")
    assert len(text) < 1500


def test_a_moved_directory_stops_the_dump(place):
    """Coming back through '..' must not lead somewhere else."""
    restore(nested(40, node({b"a": File(b"")})), f"{place}/x")
    outer = f"{place}/x" + "/d" * 4
    with Dumper(f"{place}/x") as dumper:
        dumper.read_into(bytearray(nested(40, b"file").index(b"file")))
        os.chmod(outer, 0o755)
        os.chmod(f"{outer}/d", 0o755)
        os.rename(f"{outer}/d", f"{place}/moved")
        with pytest.raises(OSError, match="Stale"):
            read_all(dumper, bytearray(100))


def test_a_closed_object_refuses_work(place):
    """Closing is how a transfer is given up; it may happen at any point, and twice."""
    Path(place, "file").write_bytes(b"x" * 1000)
    dumper = Dumper(f"{place}/file")
    dumper.read_into(bytearray(200))
    dumper.close()
    dumper.close()
    with pytest.raises(ValueError, match="closed"):
        dumper.read_into(bytearray(1))
    restorer = Restorer(f"{place}/x")
    restorer.feed(nar(File(b"x" * 1000))[:200])
    restorer.close()
    restorer.close()
    with pytest.raises(ValueError, match="closed"):
        restorer.feed(b"")


def test_buffers_that_cannot_be_used_are_refused(place):
    with Dumper(place) as dumper:
        with pytest.raises(ValueError, match="nowhere"):
            dumper.read_into(bytearray())
        with pytest.raises(BufferError):
            dumper.read_into(memoryview(b"constant"))
        with pytest.raises(ValueError, match="not ended"):
            dumper.digest()


# Stock


@pytest.mark.lab
@settings(max_examples=25, deadline=None)
@given(trees)
def test_stock_reads_and_writes_the_same_nar(tree):
    with scratch() as place:
        plant(tree, os.fsencode(place) + b"/x")
        dumped = subprocess.run(["nix-store", "--dump", f"{place}/x"], check=True, capture_output=True).stdout
        assert dump(f"{place}/x") == dumped
        subprocess.run(["nix-store", "--restore", f"{place}/y"], check=True, input=dumped)
        assert dump(f"{place}/y") == dumped
