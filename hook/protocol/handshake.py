"""How a worker-protocol connection begins: magic numbers, versions, features, trust.

Text that a login shell prints before the daemon starts is recognised here, because only here is it known which eight
bytes must come first.  It is skipped if the protocol follows soon.

Source: docs/protocols/worker-protocol.md, "Handshake".  Tested in test_worker.py and test_serve.py.
"""

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from hook.errors import ConnectionLost, ProtocolError
from hook.protocol.wire import Reader, Writer

CLIENT_MAGIC = 0x6E697863
SERVER_MAGIC = 0x6478696F
CLIENT_VERSION = (1, 38)
OLDEST_SERVER = (1, 21)
"""What Nix 2.3 speaks; older daemons lack operations every build needs."""

OUTPUTS_AS_PATHS = "realisation-with-path-not-hash"
"""The feature of the protocol with which a result says what was built as paths; without it, as JSON."""

FEATURES = frozenset({OUTPUTS_AS_PATHS})
"""Protocol features offered."""

NOISE_SHOWN_BYTES = 64

MOST_NOISE_BYTES = 64 << 10
"""Of what may come before the protocol."""

NEXT_NOISE_S = 2.0
"""How long it may pause: where it ends, a shell may wait for somebody to type."""

NO_SHELL = {
    b"This account is currently not available": "the login shell of that user there is nologin",
    b"This service allows sftp connections only": "the sshd there gives that user sftp and nothing else",
}
"""What is said where nothing can be run, and what it means."""

TALKS = "a shell profile on that machine prints to standard output, it must stay silent for non-interactive logins"


@dataclass(frozen=True, slots=True)
class Hello:
    """What both ends agreed on.

    `version` is the lower of the two; `trusted` is None when the daemon does not say (before 1.35);
    `nix_version` is empty before 1.33.  `noise` is what came before the protocol.
    """

    version: tuple[int, int]
    features: frozenset[str] = frozenset()
    nix_version: str = ""
    trusted: bool | None = None
    noise: bytes = b""

    @property
    def nix_release(self) -> tuple[int, int]:
        """The daemon's Nix release as two numbers; (0, 0) if it did not say or the text is unusual."""
        # A daemon may say anything here: digits of other scripts, or more of them than make a number.
        match = re.match(r"([0-9]{1,9})\.([0-9]{1,9})", self.nix_version)
        return (int(match[1]), int(match[2])) if match else (0, 0)


class Channel(Protocol):
    """What a client needs of a connection."""

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        ...

    def write(self, data: bytes | bytearray) -> None:
        """Queue bytes for sending."""
        ...

    def peek(self) -> bytes | memoryview:
        """What has arrived and was not read yet, without waiting; valid until the next call."""
        ...

    def available(self) -> memoryview:
        """What has arrived and was not read yet, waiting for it if need be; valid until the next call."""
        ...

    def consume(self, size: int) -> None:
        """Drop `size` bytes of what `available` or `peek` returned."""
        ...

    def patience(self, silence_s: float | None) -> AbstractContextManager[None]:
        """In the block, another limit for how long the other end may be silent."""
        ...


def shake_hands(channel: Channel) -> Hello:
    """Perform the client's side up to, but not including, the first log messages of the daemon.

    Raises ProtocolError if the other end is no Nix daemon or one too old.
    """
    reader, writer = Reader(channel), Writer()
    writer.u64(CLIENT_MAGIC)
    writer.u64(_number(CLIENT_VERSION))
    channel.write(writer.take())
    noise = skip_noise(channel, SERVER_MAGIC)
    server_number = reader.u64()
    server = (server_number >> 8 & 0xFF, server_number & 0xFF)
    if server[0] != CLIENT_VERSION[0]:
        raise ProtocolError(f"protocol {server[0]}.{server[1]} is not supported (need 1.x)")
    if server < OLDEST_SERVER:
        raise ProtocolError(
            f"protocol {server[0]}.{server[1]} is too old (need {OLDEST_SERVER[0]}.{OLDEST_SERVER[1]} or newer)"
        )
    version = min(server, CLIENT_VERSION)
    if version >= (1, 38):
        writer.strings(sorted(FEATURES))
    writer.u64(0)  # no CPU affinity
    writer.u64(0)  # no space to reserve
    channel.write(writer.take())
    features = frozenset(reader.words()) & FEATURES if version >= (1, 38) else frozenset()
    nix_version = reader.text() if version >= (1, 33) else ""
    trusted = {1: True, 2: False}.get(reader.u64()) if version >= (1, 35) else None
    return Hello(version, features, nix_version, trusted, noise)


def skip_noise(channel: Channel, magic: int) -> bytes:
    """Read the first word of a protocol and return what came before it; ProtocolError if it does not come."""
    word = magic.to_bytes(8, "little")
    noise = channel.read(8)
    if noise == word:
        return b""
    try:
        with channel.patience(NEXT_NOISE_S):
            while len(noise) < MOST_NOISE_BYTES:
                more = bytes(channel.available())
                before = len(noise)
                noise += more
                # The word may have begun in what was there before.
                at = noise.find(word, max(before - len(word), 0))
                if at >= 0:
                    channel.consume(at + len(word) - before)
                    return noise[:at]
                channel.consume(len(more))
    except ConnectionLost:
        pass
    raise ProtocolError(describe_noise(noise))


def describe_noise(noise: bytes) -> str:
    """One line for bytes that came instead of a protocol's first word."""
    cause = next((cause for words, cause in NO_SHELL.items() if words in noise), TALKS)
    return f"expected the Nix protocol but got '{quoted(noise)}'; {cause}"


def quoted(noise: bytes) -> str:
    """The beginning of it, on one line."""
    shown = noise[:NOISE_SHOWN_BYTES].decode("ascii", errors="backslashreplace")
    more = "…" if len(noise) > NOISE_SHOWN_BYTES else ""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown) + more


def _number(version: tuple[int, int]) -> int:
    return version[0] << 8 | version[1]
