"""Derivations: the text of `.drv` files to values and back, byte for byte.

Pure, and fast enough to sit before the first reply: one regular expression a string, no recursion.  Which kind of
derivation something is follows from its outputs alone.  values/test_derivation.py round-trips arbitrary values and
files written by Nix.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from hook.errors import StockOnly, StoreError

_Name = TypeVar("_Name", str, bytes)
_Value = TypeVar("_Value")

# Possessive: a string without end is refused in one pass.
_STRING = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)


class OutputKind(Enum):
    """How the path of an output comes about."""

    INPUT_ADDRESSED = "input-addressed"
    FIXED = "fixed"
    FLOATING = "floating"
    DEFERRED = "deferred"
    IMPURE = "impure"


@dataclass(frozen=True, slots=True)
class DerivationOutput:
    """What a derivation says about one output; each field may be empty, see `kind`."""

    path: str
    hash_algo: str = ""
    hash: str = ""

    @property
    def kind(self) -> OutputKind:
        """The kind these fields describe; StoreError if they describe none."""
        match bool(self.path), bool(self.hash_algo), bool(self.hash):
            case True, False, False:
                return OutputKind.INPUT_ADDRESSED
            case True, True, True:
                return OutputKind.FIXED
            case False, True, False:
                return OutputKind.FLOATING
            case False, False, False:
                return OutputKind.DEFERRED
            case False, True, True if self.hash == "impure":
                return OutputKind.IMPURE
        raise StoreError(f"an output has path '{self.path}', hash type '{self.hash_algo}' and hash '{self.hash}'")


@dataclass(frozen=True, slots=True)
class Derivation:
    """One build step; every tuple is sorted by name or path, as in the file."""

    outputs: tuple[tuple[str, DerivationOutput], ...]
    input_drvs: tuple[tuple[str, tuple[str, ...]], ...]
    input_srcs: tuple[str, ...]
    system: str
    builder: bytes
    args: tuple[bytes, ...]
    env: tuple[tuple[bytes, bytes], ...]

    @property
    def kind(self) -> OutputKind:
        """The kind all outputs share; StoreError if they differ or there is none."""
        kinds = {output.kind for _, output in self.outputs}
        if len(kinds) != 1:
            raise StoreError("a derivation must have outputs, and all of one kind")
        (kind,) = kinds
        if kind is OutputKind.FIXED and [name for name, _ in self.outputs] != ["out"]:
            raise StoreError("a fixed-output derivation must have exactly one output, named 'out'")
        return kind

    @property
    def unknown_outputs(self) -> frozenset[str]:
        """The outputs whose paths are known only after the build."""
        return frozenset(name for name, output in self.outputs if not output.path)


def parse_derivation(data: bytes) -> Derivation:
    """Parse the content of a `.drv` file.

    StoreError names the offset of what is malformed; StockOnly for the experimental format of dynamic derivations.
    """
    if data.startswith(b"DrvWithVersion("):
        raise StockOnly("dynamic derivations")
    p = _Parser(data)
    p.expect(b"Derive(")
    outputs = p.items(p.output)
    p.expect(b",")
    input_drvs = p.items(p.input_drv)
    p.expect(b",")
    input_srcs = p.items(p.text)
    p.expect(b",")
    system = p.text()
    p.expect(b",")
    builder = p.string()
    p.expect(b",")
    args = p.items(p.string)
    p.expect(b",")
    env = p.items(p.variable)
    p.expect(b")")
    if p.offset != len(data):
        raise p.error("end of file")
    return Derivation(
        outputs=_sorted(outputs, "output"),
        input_drvs=_sorted(input_drvs, "input derivation"),
        input_srcs=tuple(sorted(set(input_srcs))),
        system=system,
        builder=builder,
        args=tuple(args),
        env=_sorted(env, "environment variable"),
    )


def format_derivation(derivation: Derivation) -> bytes:
    """The content of the `.drv` file of `derivation`."""
    outputs = [
        b"(%s,%s,%s,%s)" % (_quote(name), _quote(output.path), _quote(output.hash_algo), _quote(output.hash))
        for name, output in derivation.outputs
    ]
    input_drvs = [
        b"(%s,%s)" % (_quote(path), _list([_quote(name) for name in names])) for path, names in derivation.input_drvs
    ]
    return b"Derive(%s)" % b",".join(
        [
            _list(outputs),
            _list(input_drvs),
            _list([_quote(path) for path in derivation.input_srcs]),
            _quote(derivation.system),
            _quote(derivation.builder),
            _list([_quote(arg) for arg in derivation.args]),
            _list([b"(%s,%s)" % (_quote(name), _quote(value)) for name, value in derivation.env]),
        ]
    )


def resolved_hash(derivation: Derivation) -> bytes:
    """The hash that output ids of a derivation without input derivations are made of."""
    if derivation.input_drvs:
        raise StoreError("the output ids of a derivation with input derivations depend on those")
    from hashlib import sha256

    names = {name.encode() for name, _ in derivation.outputs}
    masked = Derivation(
        outputs=tuple(
            (name, DerivationOutput("", output.hash_algo, output.hash)) for name, output in derivation.outputs
        ),
        input_drvs=(),
        input_srcs=derivation.input_srcs,
        system=derivation.system,
        builder=derivation.builder,
        args=derivation.args,
        env=tuple((name, b"" if name in names else value) for name, value in derivation.env),
    )
    return sha256(format_derivation(masked)).digest()


class _Parser:
    """A cursor over the text; every method takes one piece or raises StoreError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.offset = 0

    def error(self, wanted: str) -> StoreError:
        return StoreError(f"expected {wanted} at offset {self.offset} of a derivation")

    def expect(self, token: bytes) -> None:
        if not self._data.startswith(token, self.offset):
            raise self.error(f"'{token.decode()}'")
        self.offset += len(token)

    def string(self) -> bytes:
        match = _STRING.match(self._data, self.offset)
        if match is None:
            raise self.error("a string")
        self.offset = match.end()
        return _unescape(match.group(1))

    def text(self) -> str:
        return self.string().decode("utf-8", "surrogateescape")

    def items(self, item: Callable[[], _Value]) -> list[_Value]:
        values: list[_Value] = []
        self.expect(b"[")
        if self._data.startswith(b"]", self.offset):
            self.offset += 1
            return values
        while True:
            values.append(item())
            if self._data.startswith(b",", self.offset):
                self.offset += 1
            else:
                self.expect(b"]")
                return values

    def output(self) -> tuple[str, DerivationOutput]:
        self.expect(b"(")
        name = self.text()
        self.expect(b",")
        path = self.text()
        self.expect(b",")
        hash_algo = self.text()
        self.expect(b",")
        hash_text = self.text()
        self.expect(b")")
        return name, DerivationOutput(path, hash_algo, hash_text)

    def input_drv(self) -> tuple[str, tuple[str, ...]]:
        self.expect(b"(")
        path = self.text()
        self.expect(b",")
        names = self.items(self.text)
        self.expect(b")")
        return path, tuple(sorted(set(names)))

    def variable(self) -> tuple[bytes, bytes]:
        self.expect(b"(")
        name = self.string()
        self.expect(b",")
        value = self.string()
        self.expect(b")")
        return name, value


def _sorted(items: list[tuple[_Name, _Value]], what: str) -> tuple[tuple[_Name, _Value], ...]:
    by_name = dict(items)
    if len(by_name) != len(items):
        raise StoreError(f"a derivation names an {what} twice")
    return tuple((name, by_name[name]) for name in sorted(by_name))


def _unescape(text: bytes) -> bytes:
    if b"\\" not in text:
        return text
    # Between pairs of backslashes every other backslash starts an escape of something else.
    return b"\\".join(
        [
            part.replace(b"\\n", b"\n").replace(b"\\r", b"\r").replace(b"\\t", b"\t").replace(b"\\", b"")
            for part in text.split(b"\\\\")
        ]
    )


def _quote(value: bytes | str) -> bytes:
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    escaped = (
        raw.replace(b"\\", b"\\\\")
        .replace(b'"', b'\\"')
        .replace(b"\n", b"\\n")
        .replace(b"\r", b"\\r")
        .replace(b"\t", b"\\t")
    )
    return b'"%s"' % escaped


def _list(items: list[bytes]) -> bytes:
    return b"[%s]" % b",".join(items)
