"""Move store paths between the local store and a machine, with bounded memory.

Uploads send references before referrers, in frames of one fixed buffer that small paths share; downloads go from the
connection's buffer straight into the C module.  Neither decides what to copy.  Tested in test_transfer.py against a
scripted daemon and in the lab against real ones.
"""

from collections.abc import Callable, Sequence

from hook.errors import RemoteError, StoreError
from hook.log import Activity, Log
from hook.nar import Dumper, Restorer
from hook.protocol.activity import ActivityType, ResultType, Verbosity
from hook.protocol.worker import WorkerClient, format_path_header
from hook.store.info import PathInfo
from hook.store.local import LocalStore
from hook.stream import Stream

FRAME_BYTES = 128 << 10
PROGRESS_STEP_BYTES = 1 << 20
"""How often a copy reports its progress: once for this many bytes, and at its end."""


class FrameSink:
    """Collects bytes into frames (u64 length, bytes) on a stream; `end` writes the terminating empty frame.

    After each frame it lets `on_input` deal with whatever the daemon has said meanwhile.
    """

    def __init__(self, stream: Stream, on_input: Callable[[], None]) -> None:
        self._stream = stream
        self._on_input = on_input
        self._buffer = bytearray(8 + FRAME_BYTES)
        self._view = memoryview(self._buffer)
        self._end = 8

    def write(self, data: bytes) -> None:
        """Add bytes."""
        view = memoryview(data)
        while view:
            size = min(len(view), len(self._buffer) - self._end)
            self._view[self._end : self._end + size] = view[:size]
            self._end += size
            view = view[size:]
            self._flush_if_full()

    def fill(self, dumper: Dumper) -> int:
        """Add what the dumper has next, at most one frame of it; 0 at its end."""
        size = dumper.read_into(self._view[self._end :])
        self._end += size
        self._flush_if_full()
        return size

    def end(self) -> None:
        """Send the rest and the end marker."""
        self._flush()
        self._stream.write(bytes(8))

    def abandon(self) -> None:
        """Drop the rest of the current frame and send the end marker, so that the daemon stops reading frames."""
        self._end = 8
        self._stream.write(bytes(8))

    def _flush_if_full(self) -> None:
        if self._end == len(self._buffer):
            self._flush()

    def _flush(self) -> None:
        if self._end > 8:
            self._view[:8] = (self._end - 8).to_bytes(8, "little")
            self._stream.write(self._view[: self._end])
            self._end = 8
            while self._stream.has_input():
                self._on_input()


class CopyProgress:
    """The activities of one copy operation, as the stock hook reports them."""

    def __init__(self, log: Log, infos: Sequence[PathInfo]) -> None:
        self._log = log
        self._count = len(infos)
        self._done = 0
        self.activity = Activity(log, Verbosity.INFO, ActivityType.COPY_PATHS, f"copying {len(infos)} paths")
        expected = sum(info.nar_size for info in infos)
        log.result(self.activity.id, ResultType.SET_EXPECTED, int(ActivityType.COPY_PATH), expected)

    def path_started(self) -> None:
        """One more path is on its way."""
        self._log.progress(self.activity.id, self._done, self._count, running=1)

    def path_done(self) -> None:
        """One more path has arrived."""
        self._done += 1
        self._log.progress(self.activity.id, self._done, self._count)


class _PathProgress:
    """Bytes of one path, reported every PROGRESS_STEP_BYTES and at the end."""

    def __init__(self, log: Log, activity: int, expected: int) -> None:
        self._log, self._activity, self._expected = log, activity, expected
        self._reported = 0

    def at(self, size: int) -> None:
        if size - self._reported >= PROGRESS_STEP_BYTES or size == self._expected:
            self._log.progress(self._activity, size, self._expected)
            self._reported = size


def upload(client: WorkerClient, stream: Stream, store: LocalStore, infos: Sequence[PathInfo], log: Log) -> None:
    """Send `infos`, references first, to the daemon behind `client`.

    RemoteError: the daemon refused a path; the connection stays usable.
    """
    with (progress := CopyProgress(log, infos)).activity:
        if client.adds_multiple:
            client.begin_add_multiple()
            sink = FrameSink(stream, client.poll_upload)
            _upload_framed(client, sink, lambda: _send_batch(sink, stream, store, infos, progress, log))
        else:
            for info in infos:
                client.begin_add_to_store_nar(info)
                sink = FrameSink(stream, client.poll_upload)
                _upload_framed(client, sink, lambda s=sink, i=info: _send_nar(s, stream, store, i, progress, log))


def _upload_framed(client: WorkerClient, sink: FrameSink, send: Callable[[], None]) -> None:
    try:
        send()
        sink.end()
    except RemoteError:
        sink.abandon()
        raise
    client.end_upload()


def _send_batch(
    sink: FrameSink,
    stream: Stream,
    store: LocalStore,
    infos: Sequence[PathInfo],
    progress: CopyProgress,
    log: Log,
) -> None:
    sink.write(len(infos).to_bytes(8, "little"))
    for info in infos:
        sink.write(format_path_header(info))
        _send_nar(sink, stream, store, info, progress, log)


def _send_nar(
    sink: FrameSink, stream: Stream, store: LocalStore, info: PathInfo, progress: CopyProgress, log: Log
) -> None:
    text = f"copying path '{info.path}' to '{stream.name}'"
    progress.path_started()
    with (
        Activity(log, Verbosity.INFO, ActivityType.COPY_PATH, text, info.path, "local", stream.name) as activity,
        Dumper(store.real_path(info.path)) as dumper,
    ):
        bytes_progress = _PathProgress(log, activity.id, info.nar_size)
        while sink.fill(dumper):
            bytes_progress.at(dumper.size)
        # Checked here, too: a peer that believes in a wrong size would take the next path for the rest of this one.
        if dumper.size != info.nar_size or dumper.digest() != info.nar_hash:
            raise StoreError(
                f"'{info.path}' is not what it was registered as; try 'nix-store --verify --check-contents'"
            )
    progress.path_done()


def download(client: WorkerClient, stream: Stream, store: LocalStore, infos: Sequence[PathInfo], log: Log) -> None:
    """Fetch `infos`, references first, verify each and register all of them in one transaction.

    Nothing is registered unless everything arrived; what a failed transfer left on disk is invalid and overwritten
    by the next attempt.
    """
    with (progress := CopyProgress(log, infos)).activity:
        for info in infos:
            text = f"copying path '{info.path}' from '{stream.name}'"
            progress.path_started()
            with Activity(
                log, Verbosity.INFO, ActivityType.COPY_PATH, text, info.path, stream.name, "local"
            ) as activity:
                _receive_nar(client, stream, store, info, _PathProgress(log, activity.id, info.nar_size))
            progress.path_done()
        store.commit(infos)


def _receive_nar(
    client: WorkerClient, stream: Stream, store: LocalStore, info: PathInfo, progress: _PathProgress
) -> None:
    destination = store.prepare(info.path)
    client.nar_from_path(info.path)
    with Restorer(destination, **store.restore_options()) as restorer:
        while not restorer.done:
            stream.consume(restorer.feed(stream.available()))
            progress.at(restorer.size)
            if restorer.size > info.nar_size:
                raise StoreError(f"NAR of '{info.path}' is longer than the {info.nar_size} bytes its builder declared")
    store.check_import(info, restorer.digest(), restorer.size)
