"""Move store paths between the local store and a machine, with bounded memory.

Uploads send references before referrers, through one fixed buffer that small paths share, and wait for no answer before
the last path is sent; downloads go from the connection's buffer straight into the C module.  Neither decides what to
copy.  Tested in transfer/test_upload.py and test_download.py against scripted peers, and in the lab against real ones.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from hook.errors import MachineError, NarError, RemoteError, StoreError
from hook.front.caller import Caller
from hook.front.log import Activity, Log
from hook.protocol.activity import ActivityType, ResultType, Verbosity
from hook.protocol.pipeline import Answer
from hook.protocol.upload import Upload
from hook.remote.connection import Remote
from hook.remote.stream import Stream
from hook.store.local import LocalStore
from hook.store.nar import Dumper, Restorer
from hook.transfer.meter import Meter
from hook.values.info import PathInfo
from hook.values.release import Release

CHUNK_BYTES = 64 << 10
"""What is sent at once, and the longest frame.  A daemon takes in a whole frame before it goes on with its bytes: with
longer ones it and ssh take turns."""

UPLOAD_SILENCE_S = 300.0
"""How long a machine may not take a byte: it has stores to flush and files to compare between two of them."""

NARS_AHEAD = 16
"""How many more NARs are asked for before one has arrived."""

SILENT_WITHOUT_PATHS: Release = (2, 35)
"""From here on stock does not mention a copy of nothing."""

PROGRESS_STEP_BYTES = 1 << 20
"""How often a copy reports its progress: once for this many bytes, and at its end."""


class Sink:
    """Collects what an upload consists of in one buffer, and sends that whenever it is full.

    Between two bufferfuls, and only inside a NAR, it lets `on_input` deal with what the peer has said meanwhile.
    """

    def __init__(self, stream: Stream, on_input: Callable[[], None]) -> None:
        self._stream = stream
        self._on_input = on_input
        self._buffer = memoryview(bytearray(CHUNK_BYTES))
        self._end = 0
        self._frame: int | None = None
        """Where in the buffer the head of the open frame is."""
        self._unheard = False

    def write(self, data: bytes) -> None:
        """Add bytes."""
        view = memoryview(data)
        while view:
            self._make_room(1)
            size = min(len(view), len(self._buffer) - self._end)
            self._buffer[self._end : self._end + size] = view[:size]
            self._end += size
            view = view[size:]

    def fill(self, dumper: Dumper) -> int:
        """Add what the dumper has next, at most one buffer of it; 0 at its end."""
        self._make_room(1)
        if self._unheard:
            self._unheard = False
            while self._stream.has_input():
                self._on_input()
        size = dumper.read_into(self._buffer[self._end :])
        self._end += size
        return size

    def answer(self, dumper: Dumper, most: int) -> int:
        """Send at most `most` bytes of what the dumper has next, and less than a buffer of it, as a string.

        0, with nothing sent, if it has no more.  To be called when nothing else waits to be sent.
        """
        size = dumper.read_into(self._buffer[8 : 8 + min(most, len(self._buffer) - 16)])
        if not size:
            return 0
        end = 8 + (size + 7 & ~7)
        self._buffer[:8] = size.to_bytes(8, "little")
        self._buffer[8 + size : end] = bytes(end - 8 - size)
        self._stream.write(self._buffer[:end])
        return size

    def begin_frames(self) -> None:
        """From now on everything is sent in frames: u64 length, bytes."""
        self._make_room(9)
        self._frame = self._end
        self._end += 8

    def end_frames(self) -> None:
        """End the frames with an empty one."""
        self._close_frame()
        self.write(bytes(8))

    def flush(self) -> None:
        """Send what there is."""
        framed = self._frame is not None
        self._close_frame()
        if self._end:
            self._stream.write(self._buffer[: self._end])
            self._end = 0
            self._unheard = True
        if framed:
            self.begin_frames()

    def abandon(self) -> None:
        """Give up in the middle: a daemon drops what it still receives up to the end of the frames."""
        if self._frame is not None:
            self.end_frames()
        self.flush()

    def _make_room(self, size: int) -> None:
        # Not before more is to come: an answer that arrives now cannot be one to what is still incomplete.
        if len(self._buffer) - self._end < size:
            self.flush()

    def _close_frame(self) -> None:
        if self._frame is None:
            return
        if size := self._end - self._frame - 8:
            self._buffer[self._frame : self._frame + 8] = size.to_bytes(8, "little")
        else:
            self._end = self._frame  # an empty one would be the last
        self._frame = None


def modified(path: str) -> StoreError:
    """What to tell the user of a path that is not any more what the database says."""
    return StoreError(f"path '{path}' was modified; see 'nix-store --verify --check-contents --repair'")


class CopyProgress:
    """The activities of one copy operation, as the stock hook reports them."""

    def __init__(self, log: Log, count: int, nar_bytes: int) -> None:
        self._log = log
        self._count = count
        self._done = 0
        self.activity = Activity(log, Verbosity.INFO, ActivityType.COPY_PATHS, f"copying {count} paths")
        log.result(self.activity.id, ResultType.SET_EXPECTED, int(ActivityType.COPY_PATH), nar_bytes)

    def path_started(self) -> None:
        """One more path is on its way."""
        self._log.progress(self.activity.id, self._done, self._count, running=1)

    def path_done(self) -> None:
        """One more path has arrived."""
        self._done += 1
        self._log.progress(self.activity.id, self._done, self._count)


class _PathProgress:
    """Bytes of one path: counted as they come, reported every PROGRESS_STEP_BYTES and at the end."""

    def __init__(self, here: "LocalEnd", activity: int, expected: int) -> None:
        self._log, self._meter = here.log, here.meter
        self._activity, self._expected = activity, expected
        self._counted = self._reported = 0

    def at(self, size: int) -> None:
        self._meter.copied_bytes += size - self._counted
        self._counted = size
        if size - self._reported >= PROGRESS_STEP_BYTES or size == self._expected:
            self._log.progress(self._activity, size, self._expected)
            self._reported = size


@dataclass(frozen=True, slots=True)
class LocalEnd:
    """Our end of what is copied: the store, on whose behalf, who is told of it, and the release of the parent.

    `log` is what its user sees, `meter` counts.
    """

    store: LocalStore
    caller: Caller
    log: Log
    meter: Meter
    release: Release


class Copier:
    """Copies store paths to and from one connected machine."""

    def __init__(self, remote: Remote, here: LocalEnd) -> None:
        self._client = remote.client
        self._stream = remote.stream
        self._name = remote.name
        self._here = here
        self._store = here.store
        self._log = here.log
        self._release = here.release

    def upload(self, count: int, nar_bytes: int, infos: Iterable[PathInfo]) -> None:
        """Send `infos`, `count` of them with as many bytes of NARs, which must be in an order with references first.

        RemoteError: the daemon refused a path; the connection stays usable.  StoreError: a path has another size than
        the database says; one with another content is for the machine to refuse.
        """
        if not count and self._release >= SILENT_WITHOUT_PATHS:
            return
        sink = Sink(self._stream, self._client.poll_upload)
        with (progress := CopyProgress(self._log, count, nar_bytes)).activity:
            try:
                for operation in self._client.plan_upload(count, infos):
                    self._send(sink, operation, progress)
                sink.flush()
                self._client.end_upload()
            except RemoteError:
                sink.abandon()
                self._client.abandon_upload()
                raise

    def download(self, infos: Sequence[PathInfo], asked: Mapping[str, Answer[None]]) -> list[PathInfo]:
        """Fetch `infos`, references first, and verify each; returns those that are to be registered in one transaction.

        NARs that were `asked` for already come first.  Nothing may be registered unless everything has arrived; what a
        failed transfer left on disk is invalid and overwritten by the next attempt.  A path that became valid meanwhile
        is left alone.
        """
        if not infos and self._release >= SILENT_WITHOUT_PATHS:
            return []
        nar_bytes = sum(info.nar_size for info in infos)
        with (progress := CopyProgress(self._log, len(infos), nar_bytes)).activity:
            destinations = {info.path: self._prepare(info) for info in infos}
            imported = [info for info in infos if destinations[info.path] is not None]
            nars = self._nars(imported, asked)
            for info in infos:
                destination = destinations[info.path]
                if destination is not None:
                    progress.path_started()
                    with self._importing(info):
                        self._receive_path(info, destination, next(nars))
                progress.path_done()
        return imported

    def _send(self, sink: Sink, operation: Upload, progress: CopyProgress) -> None:
        sink.write(operation.request)
        if operation.framed:
            sink.begin_frames()
        for prefix, info in operation.parts:
            sink.write(prefix)
            self._send_nar(sink, info, progress, operation.wanted)
        if operation.framed:
            sink.end_frames()

    def _prepare(self, info: PathInfo) -> str | None:
        with self._importing(info):
            return self._store.prepare(info.path)

    @contextmanager
    def _importing(self, info: PathInfo) -> Iterator[None]:
        try:
            yield
        except NarError as error:
            raise MachineError(f"it sent no valid NAR: {error}") from None
        except OSError as error:
            raise StoreError(f"cannot import '{info.path}': {error.strerror}: '{error.filename}'") from None

    def _nars(self, infos: Iterable[PathInfo], asked: Mapping[str, Answer[None]]) -> Iterator[Answer[None]]:
        """The NARs of `infos`, asked for while those before them are on their way."""
        ahead: deque[Answer[None]] = deque()
        for info in infos:
            ahead.append(asked.get(info.path) or self._client.nar_from_path(info.path))
            if len(ahead) > NARS_AHEAD:
                yield ahead.popleft()
        yield from ahead

    def _send_nar(self, sink: Sink, info: PathInfo, progress: CopyProgress, wanted: Callable[[], int] | None) -> None:
        progress.path_started()
        with self._copying(info, f"to '{self._name}'", "local", self._name) as activity:
            bytes_progress = _PathProgress(self._here, activity.id, info.nar_size)
            try:
                with Dumper(self._store.real_path(info.path), hashing=False) as dumper:
                    if wanted is not None:
                        sink.flush()
                        # It may stop at once: if the path is there by now.
                        while (most := wanted()) and sink.answer(dumper, most):
                            bytes_progress.at(dumper.size)
                        complete = not most
                    else:
                        while sink.fill(dumper):
                            bytes_progress.at(dumper.size)
                        complete = dumper.size == info.nar_size
            except (OSError, NarError) as error:
                raise StoreError(f"cannot read '{info.path}': {error}") from None
            # The hash is checked by whoever receives it, but one told a wrong size takes the next path for the rest.
            if not complete:
                raise modified(info.path)
        progress.path_done()

    def _receive_path(self, info: PathInfo, destination: str, nar: Answer[None]) -> None:
        with (
            self._copying(info, f"from '{self._name}'", self._name, "local") as activity,
            Restorer(destination, **self._store.restore_options()) as restorer,
        ):
            progress = _PathProgress(self._here, activity.id, info.nar_size)
            nar.get()
            while not restorer.done:
                self._stream.consume(restorer.feed(self._stream.available()))
                progress.at(restorer.size)
                if restorer.size > info.nar_size:
                    raise MachineError(
                        f"NAR of '{info.path}' is longer than the {info.nar_size} bytes it was declared as"
                    )
            try:
                self._store.check_import(info, restorer.digest(), restorer.size)
            except StoreError as error:
                raise MachineError(f"what it sent is refused: {error}") from None

    def _copying(self, info: PathInfo, direction: str, source: str, destination: str) -> Activity:
        text = f"copying path '{info.path}' {direction}"
        return Activity(self._log, Verbosity.INFO, ActivityType.COPY_PATH, text, info.path, source, destination)
