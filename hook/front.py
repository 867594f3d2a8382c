"""Nix's side of the pipe: settings and requests in, replies out.

All knowledge of the build-hook protocol is here and in log.py, so that another front can take their place.  A request
is either read whole or raises RequestError; after `accept` the parent reads log lines only.
Source: build-hook protocol, sections 3 to 5.  Tested in test_front.py with recorded bytes of three Nix releases.
"""

import os
from dataclasses import dataclass

from hook.caller import Caller, State
from hook.errors import RequestError
from hook.log import Log, write_all
from hook.protocol.activity import Verbosity
from hook.protocol.wire import Reader, Writer
from hook.schedule import Request
from hook.settings import Settings

MAX_SETTINGS = 10_000
READ_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Job:
    """What the parent sends after it heard `# accept`.

    `inputs` is the closure of everything the build reads, a path once; `wanted` names the outputs not yet valid here.
    """

    inputs: tuple[str, ...]
    wanted: frozenset[str]


class _Input:
    """Exact reads of what Nix sends; Cancelled when the caller goes away meanwhile."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._buffer = bytearray()

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._receive():
                raise RequestError("the request ends in the middle")
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def peek(self) -> bytes:
        return bytes(self._buffer)

    def consume(self, size: int) -> None:
        del self._buffer[:size]

    def at_end(self) -> bool:
        return not self._buffer and not self._receive()

    def _receive(self) -> bool:
        """Read once; False at the end."""
        self._caller.wait_for_input()
        data = os.read(self._caller.input_fd, READ_BYTES)
        self._buffer += data
        return bool(data)

    def skip(self, expected: bytes) -> bool:
        """Consume `expected` if that is what has come."""
        if not self._buffer and not self._receive():
            return False
        if not self._buffer.startswith(expected):
            return False
        del self._buffer[: len(expected)]
        return True

    def take_rest(self) -> bytes:
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest


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

    def at_end(self) -> bool:
        """Whether the parent closed its end between two requests; waits for one or the other."""
        return self._input.at_end()

    def read_settings(self, last: Preamble | None = None) -> Settings:
        """The preamble; Nix sends it together with the first request, so it is waiting for an answer already.

        It is not parsed again if it is the same as `last`, which is kept up to date.
        """
        self.caller.enter(State.QUESTION)
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
        self.caller.enter(State.QUESTION)
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
        self._reply(f"# accept\n{uri}", State.BUILDING)

    def _reply(self, text: str, state: State = State.ANSWERED) -> None:
        write_all(self.caller.output_fd, text.encode(errors="surrogateescape") + b"\n", self.caller.wait_for_room)
        self.caller.enter(state)

    def take_rest(self) -> bytes:
        """Bytes already taken from the parent but not consumed, for handing the conversation to another process."""
        return self._input.take_rest()


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
