"""Write the fixtures of this directory: `python -m tests.vectors.nar.make` in the root of the project."""

from pathlib import Path

from tests.oracles import File, Symlink, Tree, entry, nar, string

MAGIC = string(b"nix-archive-1")


def words(*texts: bytes) -> bytes:
    return b"".join(map(string, texts))


def root(*body: bytes) -> bytes:
    """A NAR whose root node has these strings between type and end."""
    return MAGIC + words(b"(", b"type", *body, b")")


def directory(*entries: tuple[bytes, Tree]) -> bytes:
    """A NAR with these entries in this order, right or wrong."""
    inside = b"".join(string(b"entry") + entry(name, nar(tree)[len(MAGIC) :]) for name, tree in entries)
    return MAGIC + words(b"(", b"type", b"directory") + inside + string(b")")


def nested(levels: int) -> Tree:
    tree: Tree = File(b"x")
    for _ in range(levels):
        tree = {b"d": tree}
    return tree


ONE, TWO, EMPTY = File(b"1"), File(b"2"), File(b"")

NARS = {
    "ok-regular": nar(File(b"hello\n")),
    "ok-empty": nar(EMPTY),
    "ok-executable": nar(File(b"#!/bin/sh\n", executable=True)),
    "ok-emptydir": nar({}),
    "ok-symlink": nar(Symlink(b"../target")),
    "ok-symlink-4095": nar(Symlink(b"t" * 4095)),
    "ok-tree": nar({b"a": ONE, b"b": {b"x": Symlink(b"/nix/store"), b"y": File(b"yy", True)}, b"c d": File(b"z" * 9)}),
    "ok-names": nar(dict.fromkeys([b"-", b"...", b".hidden", b"A", b"a", b"\xe9"], EMPTY)),
    "ok-case-pair": nar({b"A": ONE, b"a": TWO}),
    "ok-name-255": nar({b"n" * 255: ONE}),
    "ok-depth-63": nar(nested(63)),
    "ok-trailing-bytes": nar(File(b"hello\n")) + b"JUNKJUNK",
    "bad-magic": nar(File(b"x")).replace(b"archive-1", b"archive-2"),
    "bad-truncated": nar(File(b"hello\n"))[:-8],
    "bad-padding": nar(File(b"x")).replace(b"x" + bytes(7), b"x" + bytes(6) + b"\1"),
    "bad-type": root(b"fifo"),
    "bad-order": directory((b"b", ONE), (b"a", TWO)),
    "bad-dup": directory((b"a", ONE), (b"a", TWO)),
    "bad-dup-symlink": directory((b"a", Symlink(b"..")), (b"a", {b"f": File(b"x")})),
    "bad-name-dot": directory((b".", ONE)),
    "bad-name-dotdot": directory((b"..", ONE)),
    "bad-name-empty": directory((b"", ONE)),
    "bad-name-slash": directory((b"a/b", ONE)),
    "bad-name-nul": directory((b"a\0b", ONE)),
    "bad-name-256": directory((b"n" * 256, ONE)),
    "bad-exec-marker": root(b"regular", b"executable", b"yes", b"contents", b"x"),
    "bad-field-order": root(b"regular", b"contents", b"x", b"executable", b""),
    "bad-two-contents": root(b"regular", b"contents", b"x", b"contents", b"y"),
    "bad-no-contents": root(b"regular"),
    "bad-no-target": root(b"symlink"),
    "bad-no-type": MAGIC + words(b"(", b")"),
    "bad-entry-order": root(
        b"directory", b"entry", b"(", b"node", b"(", b"type", b"regular", b"contents", b"1", b")", b"name", b"a", b")"
    ),
    "bad-symlink-empty": root(b"symlink", b"target", b""),
    "bad-symlink-nul": root(b"symlink", b"target", b"a\0b"),
    "bad-symlink-4096": root(b"symlink", b"target", b"t" * 4096),
    "bad-depth-64": nar(nested(64)),
}

if __name__ == "__main__":
    for name, data in NARS.items():
        Path(__file__).with_name(f"{name}.nar").write_bytes(data)
