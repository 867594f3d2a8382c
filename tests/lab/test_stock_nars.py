"""Dump and restore next to `nix-store --dump` and `--restore`, byte for byte and inode for inode.

Stock sets no times and keeps its umask, so of an inode everything else is compared.  Deeper than this, stock cannot go:
from 2.28.7 it refuses 64 levels, before that PATH_MAX ends it below 2,048; the unit tests go to 10,000.
"""

import os
import stat
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from hook.store.nar import Dumper
from tests.lab import roots
from tests.lab.host import Host
from tests.oracles import File, Symlink, Tree, nar
from tests.scratch import dump, nested, node, restore
from tests.trees import trees

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]

PLACE = "/root/nars"
EXCHANGE = f"""
nix-store --restore {PLACE}/stock < {PLACE}/given
nix-store --dump {PLACE}/ours > {PLACE}/dumped
"""

SHAPES: dict[str, Tree] = {
    "empty-file": File(b""),
    "empty-program": File(b"", executable=True),
    "empty-directory": {},
    "symlink": Symlink(b"nowhere"),
    "wide": {b"%d" % number: File(b"%d" % number, number % 2 == 0) for number in range(3000)},
    "around-a-page": {b"%d" % size: File(b"x" * size) for size in (4095, 4096, 4097, 65_535, 65_536, 65_537)},
}


def inodes(top: bytes) -> Iterator[tuple[bytes, int, bool, int, bytes]]:
    """What each file below `top` is: where, type, whether executable, links, contents."""
    todo = [top]
    while todo:
        path = todo.pop()
        status = os.lstat(path)
        content = b""
        if stat.S_ISDIR(status.st_mode):
            todo += [entry.path for entry in os.scandir(path)]
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        else:
            with open(path, "rb") as file:
                content = file.read()
        executable = bool(status.st_mode & stat.S_IXUSR)
        yield path.removeprefix(top), stat.S_IFMT(status.st_mode), executable, status.st_nlink, content


def agree(client: Host, data: bytes) -> None:
    """Either side restores the NAR `data`, to the same, and dumps what the other restored, to `data` again."""
    client.run(["rm", "-rf", PLACE])
    place = client.path(PLACE)
    place.mkdir()
    (place / "given").write_bytes(data)
    assert restore(data, f"{place}/ours") == len(data)
    client.run(["sh", "-ec", EXCHANGE])
    assert (place / "dumped").read_bytes() == data
    assert dump(f"{place}/stock") == data
    ours, stock = (sorted(inodes(os.fsencode(place / side))) for side in ("ours", "stock"))
    assert ours == stock


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=trees)
def test_any_tree_is_to_us_what_it_is_to_stock(client: Host, tree: Tree) -> None:
    """A NAR that differed by a bit would have another hash, and its store path be refused everywhere."""
    agree(client, nar(tree))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tree_at_the_limits_is_to_us_what_it_is_to_stock(client: Host, shape: str) -> None:
    agree(client, nar(SHAPES[shape]))


def test_a_deep_tree_is_to_us_what_it_is_to_stock(client: Host) -> None:
    """As deep as this release of stock can go."""
    agree(client, nested(63 if client.nix_release() >= (2, 28) else 1000, node(File(b"deep"))))


def test_zeros_take_the_space_that_they_take_with_stock(client: Host) -> None:
    """A NAR has no holes: neither side makes any, so that what is full does not depend on who has filled it."""
    zeros = bytes(1 << 20)
    agree(client, nar({b"all": File(zeros), b"between": File(b"data" + zeros + b"data"), b"page": File(bytes(4096))}))
    for name, size in (("all", len(zeros)), ("between", len(zeros) + 8), ("page", 4096)):
        ours, stock = (client.path(f"{PLACE}/{side}/{name}").stat() for side in ("ours", "stock"))
        assert ours.st_blocks == stock.st_blocks
        assert ours.st_blocks * 512 >= size


@pytest.mark.parametrize("client", roots.SUITES[:1], indirect=True)
def test_a_sparse_file_of_more_than_4_gib_has_the_hash_that_stock_says(client: Host) -> None:
    """Holes are read as zeros, and 64 bits of size are counted all the way."""
    path = client.path("/root/sparse")
    with path.open("xb") as file:
        for at in (0, 5_000_001, 1 << 32):
            file.seek(at)
            file.write(b"data")
    hashing = client.popen(["nix-hash", "--type", "sha256", "/root/sparse"])
    buffer = bytearray(1 << 20)
    with Dumper(str(path)) as dumper:
        while dumper.read_into(buffer):
            pass
        assert dumper.size > 1 << 32
        ours = dumper.digest().hex()
    said, _ = hashing.communicate()
    assert said.strip() == ours
