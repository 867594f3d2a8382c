"""The worker protocol's client: one method per operation a build needs.

Every request is written whole; its answer is the daemon's log messages, which are passed on as they come, and then the
result.  An ERROR from the daemon raises RemoteError and leaves the connection usable; anything the protocol does not
allow raises ProtocolError and the connection must be closed.

Source: docs/protocols/worker-protocol.md, "Messages", "Operations", "Uploads", "Realisations".  Each layout is decoded
against recorded bytes of five Nix releases in protocol/test_recordings.py.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from enum import IntEnum
from typing import TypeVar

from hook.errors import ProtocolError, RemoteError
from hook.protocol.activity import (
    ActivityResult,
    Field,
    LogEvent,
    LogMessage,
    ResultType,
    StartActivity,
    StopActivity,
    Verbosity,
)
from hook.protocol.building import NO_LIMITS, BuildResult, BuiltPath, read_built_outputs, write_basic_derivation
from hook.protocol.handshake import OUTPUTS_AS_PATHS, Channel, Hello, shake_hands
from hook.protocol.options import Options, write_options
from hook.protocol.pipeline import Answer, Pipeline, answered
from hook.protocol.upload import Upload, read_nar_hash, write_path_info
from hook.protocol.wire import MAX_SHOWN_BYTES, Reader, Writer
from hook.values.derivation import Derivation
from hook.values.info import PathInfo
from hook.values.limits import Limits

Value = TypeVar("Value")

MAX_FIELDS = 4096
MAX_NAME_BYTES = 8 << 10
"""Of what is read and dropped."""

MAX_TRACES = 10_000

NORMAL_BUILD = 0
"""The build mode that neither repairs nor checks."""


class Op(IntEnum):
    """Operation numbers."""

    ADD_TEMP_ROOT = 11
    SET_OPTIONS = 19
    QUERY_PATH_INFO = 26
    QUERY_VALID_PATHS = 31
    BUILD_DERIVATION = 36
    NAR_FROM_PATH = 38
    ADD_TO_STORE_NAR = 39
    ADD_MULTIPLE_TO_STORE = 44
    BUILD_PATHS_WITH_RESULTS = 46


class Stderr(IntEnum):
    """First words of the daemon's messages while an operation runs."""

    NEXT = 0x6F6C6D67
    READ = 0x64617461
    LAST = 0x616C7473
    ERROR = 0x63787470
    START_ACTIVITY = 0x53545254
    STOP_ACTIVITY = 0x53544F50
    RESULT = 0x52534C54


class WorkerClient:
    """One handshaken connection to a Nix daemon.

    What the daemon says goes to `on_event`.  Where an activity has sent one line of a build log, more are expected:
    `on_lines` is shown what has arrived, may take messages of that activity off its beginning, and returns their size.
    """

    log_on_stderr = False
    stops_substituting = False
    asks_ahead = True

    def __init__(
        self,
        channel: Channel,
        on_event: Callable[[LogEvent], None],
        on_lines: Callable[[int, memoryview], int] = lambda activity, received: 0,
    ) -> None:
        self._channel = channel
        self._reader = Reader(channel)
        self._writer = Writer()
        self._pipeline = Pipeline()
        self._limits: tuple[Limits, int, bool] | None = None
        self._on_event = on_event
        self._unanswered = 0  # operations of an upload
        self._wanted: int | None = None
        """How many bytes the daemon has asked for; None where it may not ask."""
        self._on_lines = on_lines
        self._talking: int | None = None
        self.hello: Hello = shake_hands(channel)
        self._drain_messages()

    @property
    def version(self) -> tuple[int, int]:
        """The protocol version both ends speak."""
        return self.hello.version

    @property
    def trusted(self) -> bool | None:
        """Whether the daemon trusts us; None if it does not say (before 1.35)."""
        return self.hello.trusted

    @property
    def noise(self) -> bytes:
        """What came before the protocol."""
        return self.hello.noise

    @property
    def reports_outputs(self) -> bool:
        """Whether a result says which paths the outputs have."""
        return self.version >= (1, 28)

    @property
    def adds_multiple(self) -> bool:
        """Whether a batch of paths can be uploaded in one operation.

        Daemons before Nix 2.18 know the operation (from 1.32) but lose track of the stream when a path in it became
        valid meanwhile, which two clients uploading at once are enough for.
        """
        return self.version >= (1, 32) and not self.breaks_batches

    @property
    def breaks_batches(self) -> bool:
        """Whether this daemon loses track of a batch as described above; a stock hook uploads such batches to it."""
        return self.hello.nix_release < (2, 18)

    @property
    def idle(self) -> bool:
        """Whether everything that was asked is answered."""
        return self._pipeline.empty

    # Operations

    def set_limits(self, limits: Limits, verbosity: int, substitute: bool) -> None:
        """Send SetOptions, if there is any limit and it was not sent before.

        The operation overrides some of the daemon's own configuration whether one means it or not, and the stock hook
        never sends it; so neither do we without need.
        """
        if limits == NO_LIMITS or self._limits == (limits, verbosity, substitute):
            return
        others = {"max-build-log-size": limits.max_log_bytes, "timeout": limits.timeout_s}
        options = Options(
            keep_failed=limits.keep_failed,
            verbosity=max(verbosity, Verbosity.INFO),
            max_silent_time_s=limits.max_silent_time_s,
            substitute=substitute,
            others={name: str(value) for name, value in others.items() if value},
        )
        self.set_options(options)
        self._limits = limits, verbosity, substitute

    def set_options(self, options: Options) -> None:
        """Send SetOptions, which is valid for the rest of the connection."""
        write_options(self._request(Op.SET_OPTIONS), options)
        self._ask(lambda: None).get()

    def add_temp_root(self, path: str) -> None:
        """Keep `path`, which need not be there, from the daemon's garbage collector until the connection ends."""
        self._request(Op.ADD_TEMP_ROOT).string(path)
        self._ask(self._reader.u64).get()  # always 1

    def query_valid_paths(self, paths: Iterable[str], substitute: bool) -> set[str]:
        """Those of `paths` that are valid there; with `substitute` the daemon first fetches what it can."""
        w = self._request(Op.QUERY_VALID_PATHS)
        w.strings(asked := sorted(paths))
        if self.version >= (1, 27):
            w.flag(substitute)
        return self._ask(lambda: self._reader.some_of(asked)).get()

    def query_path_info(self, path: str) -> Answer[PathInfo | None]:
        """What the daemon registered for `path`; None if it is not valid there."""
        self._request(Op.QUERY_PATH_INFO).string(path)
        return self._ask(lambda: read_path_info(self._reader, path) if self._reader.flag() else None)

    def build_derivation(self, drv_path: str, derivation: Derivation, inputs: Iterable[str]) -> Answer[BuildResult]:
        """Build all outputs of `derivation` from `inputs`, the closure of what it needs, which must be valid there."""
        w = self._request(Op.BUILD_DERIVATION)
        w.string(drv_path)
        write_basic_derivation(w, derivation, inputs)
        w.u64(NORMAL_BUILD)
        return self._ask(lambda: self._read_build_result(derivation.unknown_outputs))

    def build_paths_with_results(self, drv_path: str) -> Answer[BuildResult]:
        """Build all outputs of the derivation at `drv_path`, which must be valid there with all it refers to.

        The daemon then takes nobody's word for what it builds, so it needs no trust.  From protocol 1.34.
        """
        w = self._request(Op.BUILD_PATHS_WITH_RESULTS)
        w.strings([f"{drv_path}!*"])
        w.u64(NORMAL_BUILD)
        return self._ask(self._read_only_result)

    def _read_only_result(self) -> BuildResult:
        if (count := self._reader.count()) != 1:
            raise ProtocolError(f"asked for one build, got {count} results")
        self._reader.string(MAX_NAME_BYTES)  # what was asked for
        return self._read_build_result(unknown_outputs=())

    def _read_build_result(self, unknown_outputs: Collection[str]) -> BuildResult:
        """A BuildResult; its times are dropped, since some releases always send 0."""
        r = self._reader
        status, message = r.u64(), r.message()
        if self.version >= (1, 29):
            r.u64()  # times built
            r.flag()  # non-deterministic
            r.u64()  # start
            r.u64()  # stop
        if self.version >= (1, 37):
            for _ in ("user", "system"):
                if r.flag():
                    r.u64()  # microseconds
        realisations: dict[str, bytes | BuiltPath] = {}
        if self.reports_outputs:
            as_paths = OUTPUTS_AS_PATHS in self.hello.features
            realisations = read_built_outputs(r, unknown_outputs, as_paths=as_paths)
        return BuildResult(status, message, realisations)

    def settle_log(self) -> Answer[object]:
        """Nothing to wait for: the log comes before the result on the same connection."""
        return answered(None)

    def nar_from_path(self, path: str) -> Answer[None]:
        """Ask for the NAR of `path`; when this is answered, its bytes are next on the channel.

        A daemon that cannot send it breaks off, one way or another, and ends the connection.
        """
        self._request(Op.NAR_FROM_PATH).string(path)
        return self._ask(lambda: None)

    def plan_upload(self, count: int, infos: Iterable[PathInfo]) -> Iterator[Upload]:
        """How to send `infos`, which are in an order with references first: in one operation if the daemon can."""
        if not self.adds_multiple:
            # Before 1.23 (Nix 2.3) the daemon asks for each piece.
            framed = self.version >= (1, 23)
            wanted = None if framed else self._next_wanted
            for info in infos:
                self._unanswered += 1
                yield Upload(self._add_to_store_nar(info), framed=framed, parts=((b"", info),), wanted=wanted)
        elif count:
            self._unanswered += 1
            yield Upload(self._add_multiple(), framed=True, parts=_batch(count, infos))

    def _add_multiple(self) -> bytes:
        w = self._request(Op.ADD_MULTIPLE_TO_STORE)
        w.flag(False)  # repair
        w.flag(True)  # dontCheckSigs
        return w.take()

    def _add_to_store_nar(self, info: PathInfo) -> bytes:
        w = self._request(Op.ADD_TO_STORE_NAR)
        w.string(info.path)
        write_path_info(w, info)
        w.flag(False)  # repair
        w.flag(True)  # dontCheckSigs
        return w.take()

    def _next_wanted(self) -> int:
        """How many bytes of the NAR the daemon asks for; 0 if it has all that it needs, which may be nothing."""
        self._wanted = 0
        try:
            while not self._wanted:
                if self._handle_message():
                    self._unanswered -= 1
                    return 0
            return self._wanted
        except RemoteError:
            self._unanswered -= 1
            raise
        finally:
            self._wanted = None

    def poll_upload(self) -> None:
        """Handle one message that arrived in the middle of an upload; RemoteError if the daemon gave up on a path."""
        try:
            ended = self._handle_message()
        except RemoteError:
            self._unanswered -= 1
            raise
        if ended:
            self._unanswered -= 1
            if not self._unanswered:
                raise ProtocolError("the daemon ended an upload before its last frame")

    def end_upload(self) -> None:
        """Wait until the daemon has taken in everything that was sent."""
        while self._unanswered:
            self._unanswered -= 1
            self._drain_messages()

    def abandon_upload(self) -> None:
        """After a RemoteError: wait until the daemon has done with everything that was sent."""
        while self._unanswered:
            with suppress(RemoteError):
                self.end_upload()

    # The request and reply cycle

    def _request(self, op: Op) -> Writer:
        self._writer.u64(op)
        return self._writer

    def _ask(self, read: Callable[[], Value]) -> Answer[Value]:
        """Send the request; `read` takes the result, which follows the messages."""
        self._writer.hand_over(self._channel.write)

        def read_reply() -> Value:
            self._drain_messages()
            return read()

        return self._pipeline.expect(read_reply)

    def _drain_messages(self) -> None:
        self._talking = None
        while not self._handle_message():
            while self._talking is not None and (size := self._on_lines(self._talking, self._channel.available())):
                self._channel.consume(size)

    def _handle_message(self) -> bool:
        """Take one message; True if it was the last before the result."""
        r = self._reader
        match r.u64():
            case Stderr.LAST:
                return True
            case Stderr.READ if self._wanted is not None:
                self._wanted = r.u64()
            case Stderr.NEXT:
                self._on_event(LogMessage(r.shown()))
            case Stderr.START_ACTIVITY:
                self._on_event(StartActivity(r.u64(), r.u64(), r.u64(), r.shown(), _read_fields(r), r.u64()))
            case Stderr.STOP_ACTIVITY:
                self._on_event(StopActivity(r.u64()))
            case Stderr.RESULT:
                activity, kind = r.u64(), r.u64()
                self._talking = activity if kind == ResultType.BUILD_LOG_LINE else None
                self._on_event(ActivityResult(activity, kind, _read_fields(r)))
            case Stderr.ERROR:
                raise RemoteError(self._read_error())
            case word:
                raise ProtocolError(f"unexpected word {word:#x} from the daemon")
        return False

    def _read_error(self) -> str:
        r = self._reader
        if self.version < (1, 26):
            message = r.message()
            r.u64()  # exit status
            return message
        r.string(MAX_NAME_BYTES)  # type, always "Error"
        r.u64()  # level
        r.string(MAX_NAME_BYTES)  # name
        message = r.message()
        r.u64()  # no position
        for _ in range(r.count(MAX_TRACES)):
            r.u64()  # no position
            r.shown()
        return message


def _read_fields(r: Reader) -> tuple[Field, ...]:
    fields: list[Field] = []
    left = MAX_SHOWN_BYTES
    for _ in range(r.count(MAX_FIELDS)):
        match r.u64():
            case 0:
                fields.append(r.u64())
            case 1:
                field = r.shown(left)
                left = max(left - len(field), 0)
                fields.append(field)
            case kind:
                raise ProtocolError(f"unknown kind {kind} of activity field")
    return tuple(fields)


# Values shared by several operations


def _batch(count: int, infos: Iterable[PathInfo]) -> Iterator[tuple[bytes, PathInfo]]:
    """The parts of AddMultipleToStore: before the first one their number, before each NAR what it is."""
    w = Writer()
    w.u64(count)
    for info in infos:
        w.string(info.path)
        write_path_info(w, info)
        yield w.take(), info


def read_path_info(r: Reader, path: str) -> PathInfo:
    """The fields of a valid path, in the form used since protocol 1.16."""
    return PathInfo(
        path=path,
        deriver=r.text() or None,
        nar_hash=read_nar_hash(r),
        references=r.references(),
        registration_time=r.u64(),
        nar_size=r.u64(),
        ultimate=r.flag(),
        signatures=tuple(sorted(r.words())),
        ca=r.text(),
    )
