"""Read `builders` and the files it names into machines, and write a machine as such a line.

One line that cannot be used costs that line and a warning; every other machine stays.  Stock refuses them all.  Files
are read by a function of the caller's.

Source: docs/protocols/machines.md, "The builders setting".  Each rule is a row in machines/test_builders.py.
"""

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

from hook.errors import ConfigurationError, printable
from hook.values.release import Release
from hook.values.settings import parse_number
from hook.values.storeuri import StoreUri, parse_store_uri

BLANKS = " \t\r\n"

COMMENT_FIRST: Release = (2, 29)
"""From here on a comment reaches to the end of its line; before, a `;` ended it."""

FLOAT_SPEED: Release = (2, 20)

MAX_JOBS = (1 << 32) - 1

MAX_SPEED = 3.4028234663852886e38
"""The greatest number of single precision."""

BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")

FIELDS = (
    "store URI",
    "systems",
    "ssh key",
    "max jobs",
    "speed factor",
    "supported features",
    "mandatory features",
    "host key",
)
"""What the columns of a line are; a warning names both the number, from 1, and this name."""


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """One machine of `builders`.

    Two equal lines are two machines, therefore a machine equals nothing but itself.  `systems` keeps the order of the
    line, `speed_factor` is of single precision, `public_host_key` is base64 as given.  `origin` is `builders`, or the
    file and line.
    """

    uri: StoreUri
    text: str
    origin: str
    systems: tuple[str, ...]
    ssh_key: str | None
    max_jobs: int
    speed_factor: float
    supported: frozenset[str]
    mandatory: frozenset[str]
    public_host_key: str | None


Value = TypeVar("Value")


class Item(NamedTuple):
    """A piece of text between separators, comments removed."""

    text: str
    origin: str


def parse_machines(
    text: str, *, default_system: str, release: Release, read_file: Callable[[str], str]
) -> tuple[list[Machine], list[str]]:
    """The machines of `text` and of the files it includes, in order, and a warning for everything left out.

    `read_file` raises OSError; a file that does not exist stands for no machines, without a warning.
    """
    machines: list[Machine] = []
    warnings: list[str] = []
    for item in _expand(Item(text, "builders"), (), release, read_file, warnings):
        try:
            machines.append(_parse_machine(item, default_system, release))
        except ConfigurationError as error:
            # Also what cannot be seen, such as a mark of byte order, or a blank that does not end a word.
            warnings.append(printable(f"{item.origin}: ignoring '{item.text}': {error}"))
    return machines, warnings


def format_machine(machine: Machine, release: Release) -> str:
    """A line that a stock hook of that release reads as this machine.

    Releases that know only whole speed factors get the next greater one.
    """
    speed = machine.speed_factor
    fields = (
        machine.uri.text,
        _format_list(machine.systems) or ",",
        machine.ssh_key or "-",
        str(machine.max_jobs),
        # Nine digits tell all numbers of single precision apart.
        f"{speed:.9g}" if release >= FLOAT_SPEED else str(math.ceil(speed)),
        _format_list(sorted(machine.supported)) or "-",
        _format_list(sorted(machine.mandatory)) or "-",
        machine.public_host_key or "-",
    )
    return " ".join(fields)


def _format_list(names: Sequence[str]) -> str:
    text = ",".join(names)
    # Alone, it would stand for the default.
    return "-," if text == "-" else text


def _expand(
    source: Item, including: tuple[str, ...], release: Release, read_file: Callable[[str], str], warnings: list[str]
) -> Iterator[Item]:
    """The machine lines of one text, with those of included files in their place."""
    for item in _split(source, in_file=bool(including), release=release):
        if not item.text.startswith("@"):
            yield item
            continue
        path = item.text[1:].strip(BLANKS)
        try:
            if path in including:
                raise ConfigurationError("this file includes itself")
            content = read_file(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, ConfigurationError) as error:
            reason = getattr(error, "strerror", None) or error
            text = f"{item.origin}: ignoring '{item.text}': cannot read machines from '{path}': {reason}"
            warnings.append(printable(text))
        else:
            yield from _expand(Item(content, path), (*including, path), release, read_file, warnings)


def _split(source: Item, *, in_file: bool, release: Release) -> Iterator[Item]:
    """Cut a text into trimmed items; blank ones are left out."""
    for number, line in enumerate(source.text.split("\n"), 1):
        if release >= COMMENT_FIRST:
            pieces = line.partition("#")[0].split(";")
        else:
            pieces = [piece.partition("#")[0] for piece in line.split(";")]
        for piece in pieces:
            if text := piece.strip(BLANKS):
                yield Item(text, f"{source.origin}:{number}" if in_file else source.origin)


def _parse_machine(item: Item, default_system: str, release: Release) -> Machine:
    if "\0" in item.text:
        raise ConfigurationError("there is a NUL in it, which no program takes as an argument")
    fields = item.text.translate(dict.fromkeys(map(ord, BLANKS), " ")).split(" ")
    # `-` and absence both mean the default; columns beyond the last one are ignored.
    given = [field if field != "-" else "" for field in fields if field][: len(FIELDS)]
    uri, systems, ssh_key, max_jobs, speed, supported, mandatory, host_key = given + [""] * (len(FIELDS) - len(given))
    return Machine(
        uri=_column(0, uri, partial(_parse_uri, release=release)),
        text=item.text,
        origin=item.origin,
        systems=_names(systems) if systems else (default_system,),
        ssh_key=ssh_key or None,
        max_jobs=_column(3, max_jobs or "1", _parse_max_jobs),
        speed_factor=_column(4, speed or "1", _parse_speed),
        supported=frozenset(_names(supported)),
        mandatory=frozenset(_names(mandatory)),
        public_host_key=_column(7, host_key, _parse_base64) or None,
    )


def _column(index: int, text: str, parse: Callable[[str], Value]) -> Value:
    """Parse one field; its error names the column."""
    try:
        return parse(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"column {index + 1} ({FIELDS[index]}) {error}") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _parse_uri(text: str, release: Release) -> StoreUri:
    if not text:
        raise ConfigurationError("is missing, expected for example 'ssh-ng://user@host'")
    try:
        return parse_store_uri(text, release)
    except ConfigurationError as error:
        raise ConfigurationError(f"is '{text}': {error}") from None


def _parse_max_jobs(text: str) -> int:
    number = parse_number(text.removeprefix("+"), MAX_JOBS)
    if number is None:
        raise ConfigurationError(f"is '{text}', expected a whole number from 0 to {MAX_JOBS}")
    return number


def _parse_speed(text: str) -> float:
    """A number of at least 0, rounded to the single precision that stock has, where 0 counts as 1."""
    try:
        speed = float(text) if set(text) <= set("0123456789.eE+-") else math.nan
    except ValueError:
        speed = math.nan
    if not 0 <= speed <= MAX_SPEED:
        raise ConfigurationError(f"is '{text}', expected a number of at least 0, for example '1.5'")
    (rounded,) = struct.unpack("f", struct.pack("f", speed))
    return float(rounded) or 1.0


def _parse_base64(text: str) -> str:
    if not BASE64.issuperset(text.rstrip("=")):
        raise ConfigurationError(f"is '{text}', expected base64 of a line like 'ssh-ed25519 AAAA…'")
    return text
