"""The serve protocol's client (`nix-store --serve --write`), what `ssh://` machines speak.

There are no log messages and no errors on this connection: the build log and every error text come on the remote's
standard error, and an error ends the connection.

Source: docs/protocols/serve-protocol.md, "Handshake and versions", "Commands", "How a server behaves".  Decoded against
bytes recorded from five Nix releases in test_serve.py.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from enum import IntEnum
from typing import TypeVar

from hook.errors import ProtocolError
from hook.protocol.building import NO_LIMITS, BuildResult, BuiltPath, read_built_outputs, write_basic_derivation
from hook.protocol.handshake import Channel, skip_noise
from hook.protocol.pipeline import Answer, Pipeline
from hook.protocol.upload import Upload, read_nar_hash, write_path_info
from hook.protocol.wire import Reader, Writer
from hook.values.derivation import Derivation
from hook.values.info import PathInfo
from hook.values.limits import Limits

Value = TypeVar("Value")

CLIENT_MAGIC = 0x390C9DEB
SERVER_MAGIC = 0x5452EECB
CLIENT_VERSION = (2, 8)
"""Announced to every server: those of Nix 2.5 to 2.10 send a reply of 2.6 or later whatever they are told."""
OLDEST_SERVER = (2, 5)

OUTPUTS_AS_PATHS = (2, 8)
"""From here on a result says what was built as paths; before, as JSON."""


class Command(IntEnum):
    """Command numbers."""

    QUERY_VALID_PATHS = 1
    QUERY_PATH_INFOS = 2
    DUMP_STORE_PATH = 3
    BUILD_DERIVATION = 8
    ADD_TO_STORE_NAR = 9


class ServeClient:
    """One handshaken connection to `nix-store --serve --write`."""

    log_on_stderr = True
    stops_substituting = True
    # The failure would be a line in the log of the build.
    asks_ahead = False
    breaks_batches = False

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._reader = Reader(channel)
        self._writer = Writer()
        self._pipeline = Pipeline()
        self._limits = NO_LIMITS
        self._unconfirmed = 0  # paths of an upload
        self._noise = b""
        self._version = self._shake_hands()

    def _shake_hands(self) -> tuple[int, int]:
        w, r = self._writer, self._reader
        w.u64(CLIENT_MAGIC)
        w.u64(_number(CLIENT_VERSION))
        self._channel.write(w.take())
        self._noise = skip_noise(self._channel, SERVER_MAGIC)
        number = r.u64()
        server = (number >> 8 & 0xFF, number & 0xFF)
        if server[0] != CLIENT_VERSION[0]:
            raise ProtocolError(f"serve protocol {server[0]}.{server[1]} is not supported (need 2.x)")
        if server < OLDEST_SERVER:
            oldest = f"{OLDEST_SERVER[0]}.{OLDEST_SERVER[1]}"
            raise ProtocolError(f"serve protocol {server[0]}.{server[1]} is too old (need {oldest} or newer)")
        return min(server, CLIENT_VERSION)

    @property
    def version(self) -> tuple[int, int]:
        """The protocol version both ends speak."""
        return self._version

    @property
    def trusted(self) -> bool | None:
        """The server does not say whether it trusts us."""
        return None

    @property
    def noise(self) -> bytes:
        """What came before the protocol."""
        return self._noise

    @property
    def idle(self) -> bool:
        """Whether everything that was asked is answered."""
        return self._pipeline.empty

    @property
    def reports_outputs(self) -> bool:
        """Whether a result says which paths the outputs have."""
        return self.version >= (2, 6)

    def set_limits(self, limits: Limits, verbosity: int, substitute: bool) -> None:
        """Remember `limits`, which are sent with each build."""
        self._limits = limits

    def query_valid_paths(self, paths: Iterable[str], substitute: bool) -> set[str]:
        """Those of `paths` that are valid there, rooted for as long as this connection lasts."""
        return self._ask_valid_paths(paths, substitute).get()

    def _ask_valid_paths(self, paths: Iterable[str], substitute: bool) -> Answer[set[str]]:
        w = self._request(Command.QUERY_VALID_PATHS)
        w.flag(True)  # lock: add temporary roots first
        w.flag(substitute)
        w.strings(asked := sorted(paths))
        return self._ask(lambda: self._reader.some_of(asked))

    def add_temp_root(self, path: str) -> None:
        """Keep `path` from the garbage collector there until the connection ends."""
        self.query_valid_paths([path], substitute=False)

    def query_path_info(self, path: str) -> Answer[PathInfo | None]:
        """What is registered for `path`; None if it is not valid there.  The registration time is not sent."""
        self._request(Command.QUERY_PATH_INFOS).strings([path])
        return self._ask(lambda: self._read_path_info(path))

    def _read_path_info(self, path: str) -> PathInfo | None:
        r = self._reader
        info = None
        while found := r.text():
            if found != path or info is not None:
                raise ProtocolError(f"asked about '{path}', told about '{found}'")
            deriver, references = r.text() or None, r.references()
            r.u64()  # download size
            nar_size = r.u64()
            nar_hash, ca, signatures = read_nar_hash(r), r.text(), tuple(sorted(r.words()))
            info = PathInfo(path, deriver, nar_hash, nar_size, references, signatures=signatures, ca=ca)
        return info

    def build_derivation(self, drv_path: str, derivation: Derivation, inputs: Iterable[str]) -> Answer[BuildResult]:
        """Build all outputs of `derivation` from `inputs`, the closure of what it needs, which must be valid there."""
        w, limits = self._request(Command.BUILD_DERIVATION), self._limits
        w.string(drv_path)
        write_basic_derivation(w, derivation, inputs)
        w.u64(limits.max_silent_time_s)
        w.u64(limits.timeout_s)
        w.u64(limits.max_log_bytes)
        w.u64(0)  # repetitions
        w.flag(False)  # enforce determinism
        if self.version >= (2, 7):
            w.flag(limits.keep_failed)
        return self._ask(lambda: self._read_build_result(derivation.unknown_outputs))

    def _read_build_result(self, unknown_outputs: Collection[str]) -> BuildResult:
        r = self._reader
        status, message = r.u64(), r.message()
        for _ in ("times built", "non-deterministic", "start", "stop"):
            r.u64()
        realisations: dict[str, bytes | BuiltPath] = {}
        if self.reports_outputs:
            realisations = read_built_outputs(r, unknown_outputs, as_paths=self.version >= OUTPUTS_AS_PATHS)
        return BuildResult(status, message, realisations)

    def settle_log(self) -> Answer[object]:
        """Ask something: the log takes another way than the result, but the answer to what is asked now comes later."""
        return self._ask_valid_paths([], substitute=False)

    def nar_from_path(self, path: str) -> Answer[None]:
        """Ask for the NAR of `path`; when this is answered, its bytes are next on the channel.

        A server that cannot send it ends, and complains on the standard error that is the build's log.
        """
        self._request(Command.DUMP_STORE_PATH).string(path)
        return self._ask(lambda: None)

    def plan_upload(self, count: int, infos: Iterable[PathInfo]) -> Iterator[Upload]:
        """How to send `infos`, which are in an order with references first: one command each."""
        for info in infos:
            self._unconfirmed += 1
            yield Upload(self._add_to_store_nar(info), framed=False, parts=((b"", info),))

    def _add_to_store_nar(self, info: PathInfo) -> bytes:
        w = self._request(Command.ADD_TO_STORE_NAR)
        w.string(info.path)
        write_path_info(w, info)
        return w.take()

    def poll_upload(self) -> None:
        """Take one confirmation in the middle of an upload."""
        if self._reader.u64() != 1:
            raise ProtocolError("the server did not confirm a path")
        if not self._unconfirmed:
            raise ProtocolError("the server confirmed a path that it was not sent")
        self._unconfirmed -= 1

    def end_upload(self) -> None:
        """Wait until the server has taken in everything that was sent."""
        while self._unconfirmed:
            self.poll_upload()

    def abandon_upload(self) -> None:
        """Nothing to wait for: the server ends where a daemon would refuse."""

    def _request(self, command: Command) -> Writer:
        self._writer.u64(command)
        return self._writer

    def _ask(self, read: Callable[[], Value]) -> Answer[Value]:
        self._writer.hand_over(self._channel.write)
        return self._pipeline.expect(read)


def _number(version: tuple[int, int]) -> int:
    return version[0] << 8 | version[1]
