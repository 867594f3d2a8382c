"""The files that ssh reads its configuration from: whether one was changed, and whether they decide by the moment.

Only what is needed to know when ssh must be asked again; what the files mean is for ssh to say.  In doubt they decide
by the moment.

Source: ssh_config(5), on Include and Match.  Tested in test_sshfiles.py.
"""

import os
import pwd
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from glob import glob, has_magic

SYSTEM_DIRECTORY = "/etc/ssh"
MOST_FILES = 100
MOST_BYTES = 1 << 20

LINE = re.compile(rb"""^[ \t]*["']?(include|match|sendenv)["']?[ \t=]+(.*)$""", re.IGNORECASE | re.MULTILINE)

VARIABLE = re.compile(rb"\$\{?(\w+)")

MOMENTARY = re.compile(rb"exec|localnetwork", re.IGNORECASE)
"""Conditions of Match whose truth is another one the next time."""

Stamp = tuple[int, ...] | None
"""By which a file is the same as before; None if there is none."""


@dataclass(slots=True)
class SshFiles:
    """Those that ssh reads with some command line.

    `momentary`: it may read the same files and decide otherwise.  `variables` of the environment are named in them, and
    those are `sent` that match a pattern.
    """

    stamps: dict[str, Stamp] = field(default_factory=dict)
    momentary: bool = False
    variables: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)

    def are_current(self) -> bool:
        """Whether all are as they were."""
        return all(_stamp(path) == stamp for path, stamp in self.stamps.items())


def ssh_files(argv: Sequence[str]) -> SshFiles:
    """The files that ssh with this command line reads now."""
    found = SshFiles()
    user_directory = os.path.join(_home(), ".ssh")
    given = _given(argv)
    if given is None:
        _read(os.path.join(SYSTEM_DIRECTORY, "ssh_config"), SYSTEM_DIRECTORY, found)
        given = os.path.join(user_directory, "config")
    if given.lower() != "none":
        _read(os.path.join("/", given), user_directory, found)
    return found


def _home() -> str:
    """Where ssh looks, whatever HOME is; a user without a name has none, and no ssh."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/nonexistent"


def _given(argv: Sequence[str]) -> str | None:
    """The file that `-F` names."""
    for index, word in enumerate(argv):
        if word.startswith("-F"):
            return word[2:] or "".join(argv[index + 1 : index + 2])
    return None


def _read(path: str, directory: str, found: SshFiles) -> None:
    """Note the file at `path` and what it includes, by names in `directory` where they are not absolute."""
    if path in found.stamps:
        return
    if len(found.stamps) >= MOST_FILES:
        found.momentary = True
        return
    found.stamps[path] = _stamp(path)
    try:
        with open(path, "rb", opener=_open) as file:
            text = file.read(MOST_BYTES)
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        found.momentary = True
        return
    if len(text) == MOST_BYTES:
        found.momentary = True
    found.variables.update(map(os.fsdecode, VARIABLE.findall(text)))
    for keyword, rest in LINE.findall(text):
        if keyword.lower() == b"match":
            found.momentary |= MOMENTARY.search(rest) is not None
        elif keyword.lower() == b"sendenv":
            found.sent.update(_words(os.fsdecode(rest)))
        else:
            for name in _words(os.fsdecode(rest)):
                _include(name, directory, found)


def _open(path: str, flags: int) -> int:
    # A pipe at its place is not waited for.
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _words(text: str) -> Iterator[str]:
    for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', text):
        if plain.startswith("#"):
            return
        yield quoted or plain


def _include(name: str, directory: str, found: SshFiles) -> None:
    if "$" in name or "%" in name or (name.startswith("~") and not name.startswith("~/")):
        found.momentary = True
        return
    if name.startswith("~/"):
        name = os.path.join(_home(), name[2:])
    pattern = os.path.join(directory, name)
    if not has_magic(pattern):
        _read(pattern, directory, found)
        return
    # A file that comes later changes the directory that it comes into.
    included = sorted(glob(pattern))
    literal = os.path.dirname(pattern)
    while has_magic(literal):
        literal = os.path.dirname(literal)
    for place in {literal, *map(os.path.dirname, included)}:
        found.stamps.setdefault(place, _stamp(place))
    for path in included:
        _read(path, directory, found)


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
