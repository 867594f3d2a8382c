"""Nix's side of the conversation: settings and requests in, replies out, by way of the shim.

All knowledge of the build-hook protocol is here and in log.py, so that another front can take their place.  A request
is either read whole or raises RequestError; after `accept` the parent reads log lines only.

Source: docs/protocols/build-hook.md, "The settings preamble", "Questions and answers", "After the accept".  Tested in
test_front.py with recorded bytes of Nix releases.
"""

import struct

from hook.errors import RequestError
from hook.front.caller import Caller, Word
from hook.front.log import Log
from hook.front.request import Job, Request
from hook.protocol.activity import Verbosity
from hook.protocol.wire import Reader, Writer
from hook.values.settings import Settings

MAX_SETTINGS = 10_000
READ_BYTES = 64 << 10
LENGTH = struct.Struct("<I")
PLACE = struct.Struct("<II")


class _Input:
    """Exact reads of what Nix sends; Cancelled when the caller goes away meanwhile.  `taken` counts the bytes."""

    def __init__(self, caller: Caller) -> None:
        self.taken = 0
        self._caller = caller
        self._buffer = bytearray()

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._receive():
                raise RequestError("the request ends in the middle")
        data = bytes(self._buffer[:size])
        self.consume(size)
        return data

    def peek(self) -> bytes:
        return bytes(self._buffer)

    def consume(self, size: int) -> None:
        del self._buffer[:size]
        self.taken += size

    def at_end(self) -> bool:
        return not self._buffer and not self._receive()

    def _receive(self) -> bool:
        """Read once; False at the end."""
        data = self._caller.read(READ_BYTES)
        self._buffer += data
        return bool(data)

    def skip(self, expected: bytes) -> bool:
        """Consume `expected` if that is what has come."""
        if not self._buffer and not self._receive():
            return False
        if not self._buffer.startswith(expected):
            return False
        self.consume(len(expected))
        return True


MOST_REMEMBERED_BYTES = 1 << 20
"""Of a preamble, which is a few kilobytes; a larger one is parsed each time."""


class Preamble:
    """What a conversation began with, and what that meant: the hooks of one command all begin with the same.

    One for all threads: it is replaced as a whole.
    """

    def __init__(self) -> None:
        self._last: tuple[bytes, Settings] = b"", Settings({})

    def read(self, input: _Input) -> Settings | None:  # noqa: A002 - what it is
        """The settings, if they begin what has come; nothing is consumed otherwise."""
        data, settings = self._last
        return settings if data and input.skip(data) else None

    def keep(self, settings: Settings) -> None:
        """These were sent last."""
        # Nix sends them sorted, as this does.
        data = format_settings(settings)
        if len(data) <= MOST_REMEMBERED_BYTES:
            self._last = data, settings


class Front:
    """One conversation with the Nix process that started the hook."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        verbosity = caller.verbosity
        self.log = Log(caller.output_fd, Verbosity.INFO if verbosity is None else verbosity, caller.wait_for_room)
        self._input = _Input(caller)
        self._reader = Reader(self._input)
        self._settings_bytes = 0
        """How many the shim keeps."""
        self._answered = 0
        """How many bytes of the input it does not."""

    def at_end(self) -> bool:
        """Whether the parent closed its end between two requests; waits for one or the other."""
        return self._input.at_end()

    def read_settings(self, last: Preamble | None = None) -> Settings:
        """The preamble, which Nix sends together with the first request.

        It is not parsed again if it is the same as `last`, which is kept up to date.
        """
        settings = self._read_settings(last)
        self._settings_bytes = self._answered = self._input.taken
        return settings

    def _read_settings(self, last: Preamble | None) -> Settings:
        if last and (known := last.read(self._input)) is not None:
            return known
        values: dict[str, str] = {}
        while self._reader.flag():
            name = self._reader.text()
            values[name] = self._reader.string().decode(errors="surrogateescape")
            if len(values) > MAX_SETTINGS:
                raise RequestError("the settings do not end")
        settings = Settings(values)
        if last:
            last.keep(settings)
        return settings

    def read_request(self) -> Request:
        """One `try`."""
        word = self._reader.string()
        if word != b"try":
            raise RequestError(f"unknown request '{word[:32].decode('ascii', errors='backslashreplace')}'")
        am_willing = self._reader.flag()
        system = self._reader.text()
        drv_path = self._reader.text()
        return Request(
            system=system, drv_path=drv_path, features=frozenset(self._reader.texts()), am_willing=am_willing
        )

    def read_job(self) -> Job:
        """The inputs and wanted outputs of an accepted build."""
        return Job(inputs=tuple(self._reader.texts()), wanted=frozenset(self._reader.texts()))

    def keep_settings(self, settings: Settings) -> None:
        """Whoever answers instead of us is to have these settings, not those that Nix sent."""
        data = format_settings(settings)
        self.caller.tell(Word.KEEP, LENGTH.pack(self._settings_bytes) + data)
        self._settings_bytes = len(data)

    def decline(self) -> None:
        """Let Nix build this derivation itself, and ask again for the next one."""
        self._reply("# decline")

    def decline_permanently(self) -> None:
        """As `decline`, and never ask again."""
        self._reply("# decline-permanently")

    def postpone(self) -> None:
        """Have Nix ask again later."""
        self._reply("# postpone")

    def accept(self, uri: str) -> None:
        """Take the build; `uri` names the machine in what Nix shows.

        Both lines go out in one write: the second is read raw, and nothing may come between them.
        """
        self.caller.accepted = True
        self.caller.tell(Word.ACCEPT, f"# accept\n{uri}\n".encode(errors="surrogateescape"))

    def _reply(self, text: str) -> None:
        """Answer the request that was read last, which nobody has to answer any more."""
        place = PLACE.pack(self._settings_bytes, self._input.taken - self._answered)
        self._answered = self._input.taken
        self.caller.tell(Word.REPLY, place + text.encode() + b"\n")


def format_settings(settings: Settings) -> bytes:
    """The preamble that `read_settings` parses."""
    w = Writer()
    for name, value in sorted(settings.items()):
        w.u64(1)
        w.string(name)
        w.string(value)
    w.u64(0)
    return w.take()


def format_request(request: Request) -> bytes:
    """The `try` that `read_request` parses."""
    w = Writer()
    w.string("try")
    w.flag(request.am_willing)
    w.string(request.system)
    w.string(request.drv_path)
    w.strings(sorted(request.features))
    return w.take()
