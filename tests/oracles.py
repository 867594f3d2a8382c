"""References, written to be read: trees, NARs, lists of strings, log lines and realisations in plain Python.

A tree is a File, a Symlink, or a dict from names to trees.  Nothing here shares code with the package.
"""

import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class File:
    contents: bytes
    executable: bool = False


@dataclass(frozen=True)
class Symlink:
    target: bytes


Tree = File | Symlink | dict[bytes, "Tree"]


class Invalid(Exception):
    """The bytes break a rule."""


# Strings, lists


def string(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data + bytes(-len(data) % 8)


def strings(items: Iterable[bytes]) -> bytes:
    items = list(items)
    return len(items).to_bytes(8, "little") + b"".join(map(string, items))


def log_line(activity: int, text: bytes) -> bytes:
    """One line of a build log, as a daemon sends it: RESULT, activity, kind 101, one field, a string."""
    return b"".join(n.to_bytes(8, "little") for n in (0x52534C54, activity, 101, 1, 1)) + string(text)


def log_lines(data: bytes, activity: int) -> tuple[list[str], list[int]]:
    """The texts that `data` starts with, up to another message or one in no valid UTF-8; their sizes."""
    texts, sizes = [], []
    head = log_line(activity, b"")[:40]
    while data.startswith(head):
        source = Input(data[40:])
        try:
            size = source.number()
            padded = source.take(size + -size % 8)
            texts.append(padded[:size].decode())
        except (EOFError, UnicodeDecodeError):
            break
        if any(padded[size:]):
            texts.pop()
            break
        sizes.append(48 + len(padded))
        data = data[sizes[-1] :]
    return texts, sizes


class Input:
    """Reads the primitives off `data`; Invalid for a broken rule, EOFError where the data ends too early."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if len(self.data) - self.at < size:
            raise EOFError
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def string(self, limit: int) -> bytes:
        size = self.number()
        if size > limit:
            raise Invalid("string is too long")
        data = self.take(size)
        if any(self.take(-size % 8)):
            raise Invalid("non-zero padding")
        return data

    def strings(self, max_bytes_each: int, max_count: int) -> list[bytes]:
        count = self.number()
        if count > max_count:
            raise Invalid("a list is too long")
        items = []
        for _ in range(count):
            items.append(self.string(max_bytes_each))
            if b"\0" in items[-1]:
                raise Invalid("a string in a list contains a NUL")
        return items


# NARs


def nar(tree: Tree) -> bytes:
    return string(b"nix-archive-1") + _node(tree)


def _node(tree: Tree) -> bytes:
    match tree:
        case File(contents, executable):
            marker = string(b"executable") + string(b"") if executable else b""
            body = string(b"regular") + marker + string(b"contents") + string(contents)
        case Symlink(target):
            body = string(b"symlink") + string(b"target") + string(target)
        case _:
            body = string(b"directory") + b"".join(
                string(b"entry") + entry(name, _node(child)) for name, child in sorted(tree.items())
            )
    return string(b"(") + string(b"type") + body + string(b")")


def entry(name: bytes, node: bytes) -> bytes:
    return string(b"(") + string(b"name") + string(name) + string(b"node") + node + string(b")")


def parse_nar(data: bytes, max_depth: int = 1 << 16) -> tuple[Tree, int]:
    """The tree and the size of the NAR that `data` starts with."""
    source = Input(data)
    try:
        if source.string(32) != b"nix-archive-1":
            raise Invalid("magic")
    except Invalid:
        raise Invalid("input doesn't look like a Nix archive") from None
    return _parse_node(source, max_depth), source.at


def _expect(source: Input, *tags: bytes) -> bytes:
    tag = source.string(32)
    if tag not in tags:
        raise Invalid(f"expected {tags}, got {tag!r}")
    return tag


def _parse_node(source: Input, depth_left: int) -> Tree:
    if depth_left < 0:
        raise Invalid("nesting exceeds maximum depth")
    _expect(source, b"(")
    _expect(source, b"type")
    tree: Tree
    match _expect(source, b"regular", b"symlink", b"directory"):
        case b"regular":
            executable = _expect(source, b"executable", b"contents") == b"executable"
            if executable:
                if source.string(32):
                    raise Invalid("executable marker has non-empty value")
                _expect(source, b"contents")
            tree = File(source.string((1 << 64) - 1), executable)
        case b"symlink":
            _expect(source, b"target")
            tree = Symlink(source.string(4095))
            if not tree.target or b"\0" in tree.target:
                raise Invalid("invalid symlink target")
        case _:
            return _parse_entries(source, depth_left)
    _expect(source, b")")
    return tree


def _parse_entries(source: Input, depth_left: int) -> Tree:
    entries: dict[bytes, Tree] = {}
    last = b""
    while _expect(source, b"entry", b")") == b"entry":
        _expect(source, b"(")
        _expect(source, b"name")
        name = source.string(255)
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            raise Invalid(f"NAR contains invalid file name {name!r}")
        if name <= last:
            raise Invalid("NAR directory is not sorted")
        last = name
        _expect(source, b"node")
        entries[name] = _parse_node(source, depth_left - 1)
        _expect(source, b")")
    return entries


# Trees on disk


def plant(tree: Tree, path: bytes) -> None:
    """Create `tree` at `path`."""
    match tree:
        case File(contents, executable):
            with open(path, "xb") as file:
                file.write(contents)
            os.chmod(path, 0o755 if executable else 0o644)
        case Symlink(target):
            os.symlink(target, path)
        case _:
            os.mkdir(path)
            for name, child in tree.items():
                plant(child, os.path.join(path, name))


def harvest(path: bytes) -> Tree:
    """The tree at `path`, which must be in canonical form."""
    status = os.lstat(path)
    assert status.st_mtime_ns == 1_000_000_000
    assert status.st_uid == os.geteuid()
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return Symlink(os.readlink(path))
    if stat.S_ISDIR(status.st_mode):
        assert mode == 0o555
        return {name: harvest(os.path.join(path, name)) for name in os.listdir(path)}
    assert mode in (0o444, 0o555)
    with open(path, "rb") as file:
        return File(file.read(), executable=mode == 0o555)


# Realisations


def realisation(known: Any) -> str:
    """The JSON of one, as Nix writes it: full form, sorted keys, no spaces."""
    values = {
        "dependentRealisations": {"!".join(each): path.rpartition("/")[2] for each, path in known.dependencies.items()},
        "id": "!".join(known.id),
        "outPath": known.out_path.rpartition("/")[2],
        "signatures": sorted(known.signatures),
    }
    return json.dumps(values, sort_keys=True, separators=(",", ":"))
