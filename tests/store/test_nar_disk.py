import errno
import hashlib
import os
import resource
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from hook.errors import NarError
from hook.store.nar import Dumper, Restorer
from tests.leaks import descriptors, no_leaks
from tests.oracles import File, Symlink, Tree, harvest, nar, plant, string
from tests.scratch import dump, nested, node, read_all, restore, scratch


@pytest.fixture
def place() -> Iterator[str]:
    with scratch() as path:
        yield path


@pytest.fixture(autouse=True)
def no_descriptor_stays_open() -> Iterator[None]:
    """Whatever a test provokes."""
    with no_leaks():
        yield


# Size and depth


@pytest.mark.parametrize("levels", [31, 32, 33, 34, 64, 10_000])
def test_depth_costs_neither_stack_nor_descriptors(levels, place):
    """32 directories stay open, the others are opened again on the way back; most are below what a path can name."""
    data = nested(levels, node(File(b"deep")))
    used = len(descriptors())
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


BEYOND_32_BITS = (4 << 30) + 1


def test_the_size_of_a_file_of_more_than_4_gib_is_dumped_whole(place):
    """Sparse, so that it costs no disk."""
    with open(f"{place}/x", "wb") as file:
        file.truncate(BEYOND_32_BITS)
    head = nar(File(b""))[: -8 - len(string(b")"))] + struct.pack("<Q", BEYOND_32_BITS)
    buffer = bytearray(len(head) + 100)
    with Dumper(f"{place}/x") as dumper:
        assert dumper.read_into(memoryview(buffer)) == len(buffer)
    assert buffer == head + bytes(100)


def test_a_file_of_more_than_4_gib_does_not_end_early(place):
    """Cut to 32 bits, its size would be one byte."""
    head = nar(File(b""))[: -8 - len(string(b")"))] + struct.pack("<Q", BEYOND_32_BITS)
    data = head + b"!" + bytes(7) + string(b")")
    with Restorer(f"{place}/x") as restorer:
        assert restorer.feed(data) == len(data)
        assert not restorer.done


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
PLAIN_TREE: Tree = {
    # The first files of a kind in a directory show how the others must be created.
    **{b"%d" % number: File(b"1", executable=number % 3 == 0) for number in range(9)},
    b"d": {b"c": File(b"3"), b"l": Symlink(b"t")},
}


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


@pytest.mark.parametrize(("name", "error"), [("file", errno.ELOOP), ("dir", errno.ENOTDIR)])
def test_a_symlink_put_in_the_place_of_something_listed_is_not_followed(name, error, place):
    """A dump must not show what lies outside, whoever changes the tree meanwhile."""
    plant({b"a": File(b"1" * 1000), b"file": File(b""), b"dir": {}}, os.fsencode(place) + b"/x")
    with Dumper(f"{place}/x") as dumper:
        dumper.read_into(bytearray(500))
        os.rename(f"{place}/x/{name}", f"{place}/{name}")
        os.symlink(f"{place}/{name}", f"{place}/x/{name}")
        with pytest.raises(OSError, match=os.strerror(error)) as caught:
            read_all(dumper, bytearray(1 << 16))
        assert caught.value.filename == f"{place}/x/{name}"


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


def test_what_is_not_hashed_has_the_same_bytes(place):
    with open(f"{place}/file", "wb") as file:
        file.write(b"content" * 30_000)
    buffers = bytearray(1 << 20), bytearray(1 << 20)
    with Dumper(place) as hashed, Dumper(place, hashing=False) as dumper:
        assert hashed.read_into(buffers[0]) == dumper.read_into(buffers[1])
        assert buffers[0] == buffers[1]
        assert hashed.digest() == hashlib.sha256(buffers[0][: hashed.size]).digest()
        with pytest.raises(ValueError, match="not hashed"):
            dumper.digest()


def test_buffers_that_cannot_be_used_are_refused(place):
    with Dumper(place) as dumper:
        with pytest.raises(ValueError, match="nowhere"):
            dumper.read_into(bytearray())
        with pytest.raises(BufferError):
            dumper.read_into(memoryview(b"constant"))
        with pytest.raises(ValueError, match="not ended"):
            dumper.digest()
