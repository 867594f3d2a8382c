"""The host key that a machine's line pins: what the column may hold, and the known-hosts file that is made of it.

Stock's base64 needs no padding, and so does this.  Where stock writes whatever comes out into a known-hosts file, keys
are recognised here, also as a line of known_hosts or without their type.

Source: docs/protocols/ssh.md, "Host keys"; sshd(8), on the format of known_hosts.  Tested in test_hostkey.py.
"""

import base64
import binascii
import os
import re
from collections.abc import Iterator
from contextlib import suppress

from hook.errors import ConfigurationError, printable
from hook.machines.builders import BASE64

EXPECTED = "expected base64 of a line like 'ssh-ed25519 AAAA…'"

KIND = re.compile(r"(?:ssh|ecdsa|sk|rsa)-[!-~]+")
"""How the types of keys are called."""

BLOB_START = "AAAA"
"""How every key begins in base64: with the length of its type, which is short."""

AUTHORITY = "@cert-authority"
SHOWN = 60


def known_hosts_file(column: str, private_dir: str) -> str:
    """A known-hosts file in `private_dir` with just the keys in `column`, named by its content and never rewritten."""
    import hashlib

    content = "".join(f"{line}\n" for line in known_hosts_lines(column))
    directory = os.path.join(private_dir, "known-hosts")
    path = os.path.join(directory, hashlib.sha256(content.encode()).hexdigest()[:32])
    if os.path.exists(path):
        return path
    try:
        _write_once(path, content)
    except OSError:
        # No space, or read-only: a disk that nothing else of this build may need.
        from hook.scratch import scratch_directory

        try:
            path = os.path.join(scratch_directory(), "known-hosts", os.path.basename(path))
            _write_once(path, content)
        except OSError as error:
            raise ConfigurationError(f"cannot write the public host key to '{path}': {error.strerror}") from None
    return path


def known_hosts_lines(column: str) -> list[str]:
    """Lines for ssh by which the keys in `column` are valid for every name; ConfigurationError if there are none.

    A key belongs to one machine, and ssh may look it up under an alias, an address or a non-standard port.
    """
    decoded = _decode(column)
    if kind := _kind_of(decoded):
        return [f"* {kind} {base64.b64encode(decoded).decode()}"]
    text = decoded.decode(errors="replace")
    lines = [found for line in text.splitlines() for found in _known_hosts_line(line.split())]
    if not lines:
        shown = printable(text[:SHOWN]) + ("…" if len(text) > SHOWN else "")
        raise ConfigurationError(f"the public host key is base64 of '{shown}', {EXPECTED}")
    return lines


def _decode(column: str) -> bytes:
    """As stock does: a break of lines counts for nothing, and neither does what follows a `=`."""
    digits = column.replace("\n", "").partition("=")[0]
    if not BASE64.issuperset(digits):
        raise ConfigurationError(f"the public host key is not base64, {EXPECTED}")
    # One digit alone is less than a byte.
    whole = digits if len(digits) % 4 != 1 else digits[:-1]
    return base64.b64decode(whole + "=" * (-len(whole) % 4))


def _known_hosts_line(words: list[str]) -> Iterator[str]:
    """At most one line, of `[MARKER] [HOSTS] [TYPE] KEY [COMMENT]`, for whatever host."""
    marker = f"{AUTHORITY} " if words[:1] == [AUTHORITY] else ""
    # A host comes before the type, as known_hosts and ssh-keyscan have it.
    for start in (1, 2) if marker else (0, 1):
        match words[start:]:
            case [kind, _, *_] if KIND.fullmatch(kind):
                yield f"{marker}* {' '.join(words[start:])}"
                return
            case [blob, *comment] if blob.startswith(BLOB_START) and (kind := _kind_of_text(blob)):
                yield f"{marker}* {' '.join([kind, blob, *comment])}"
                return


def _kind_of_text(blob: str) -> str:
    try:
        return _kind_of(base64.b64decode(blob, validate=True))
    except (binascii.Error, ValueError):
        return ""


def _kind_of(key: bytes) -> str:
    """The type that a key begins with; empty if this is no key."""
    kind = key[4 : 4 + int.from_bytes(key[:4], "big")].decode("ascii", "replace")
    return kind if len(key) > 4 + len(kind) and KIND.fullmatch(kind) else ""


def _write_once(path: str, content: str) -> None:
    """Make a file appear under its name only with all of its content, whoever else makes it at the same time."""
    import tempfile

    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    fd, partial = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        with os.fdopen(fd, "w") as file:
            file.write(content)
            os.fchmod(fd, 0o400)
        os.rename(partial, path)
    except BaseException:
        # A full disk has room for any number of empty files.
        with suppress(OSError):
            os.unlink(partial)
        raise
