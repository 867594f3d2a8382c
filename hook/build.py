"""One build on one connected machine: inputs there, the build, outputs here.

The order of the steps is the stock hook's, see the build-hook protocol, section 8.  What differs: the upload lock is
taken only when something is missing, and an upload that another hook finished meanwhile is not repeated.
Raises BuildFailed when the derivation itself fails, MachineError when another machine may do better.
"""

from collections.abc import Collection
from dataclasses import replace

from hook.closure import references_first
from hook.errors import BuildFailed, MachineError, RemoteError, StockOnly, StoreError
from hook.front import Job
from hook.log import Activity, Log
from hook.protocol.activity import ActivityType, Verbosity
from hook.protocol.building import Limits
from hook.remote import Remote
from hook.settings import Settings
from hook.slots import SlotTable
from hook.store.derivation import Derivation, OutputKind
from hook.store.info import PathInfo
from hook.store.local import LocalStore
from hook.store.path import check_store_path
from hook.transfer import Copier, CopyProgress

UPLOAD_LOCK_S = 15 * 60.0
"""How long to wait for another hook's upload to the same machine; afterwards both upload at once."""

BUILD_LOG_FD = 4
"""Where Nix expects the raw log of a build, see the build-hook protocol."""

TRANSFER_SILENCE_S = 300.0
"""How long a machine may neither take nor send a byte while a copy is under way."""


class Builder:
    """Carries out one accepted build on whichever machine it is given."""

    def __init__(
        self, drv_path: str, derivation: Derivation, settings: Settings, store: LocalStore, slots: SlotTable, log: Log
    ) -> None:
        self._drv_path = drv_path
        self._derivation = derivation
        self._settings = settings
        self._store = store
        self._slots = slots
        self._log = log

    def check_supported(self, remote: Remote) -> None:
        """StockOnly if `remote` does not trust us to say which outputs a derivation has, and needs its closure."""
        if remote.client.trusted is False and self._derivation.kind is OutputKind.INPUT_ADDRESSED:
            raise StockOnly(f"'{remote.name}' does not trust the user we connect as")

    def run(self, remote: Remote, job: Job) -> None:
        """Build every output that is not valid here."""
        if remote.client.log_on_stderr:
            remote.stream.copy_stderr(BUILD_LOG_FD)
        remote.client.set_limits(
            limits_of(self._settings), self._log.verbosity, self._settings.flag("substitute", True)
        )
        self._upload_inputs(remote, job)
        self._build(remote, job)
        self._download_outputs(remote)

    def _upload_inputs(self, remote: Remote, job: Job) -> None:
        substitute = self._settings.flag("builders-use-substitutes", False)
        missing = job.inputs - remote.client.query_valid_paths(job.inputs, substitute)
        if not missing:
            # Stock says so, too.
            with self._activity(f"copying dependencies to '{remote.name}'"), CopyProgress(self._log, []).activity:
                return
        with self._slots.upload_lock(remote.name, UPLOAD_LOCK_S, self._announce_wait(remote)):
            # Whoever held the lock was most likely sending these very paths.
            missing -= remote.client.query_valid_paths(missing, substitute=False)
            with self._activity(f"copying dependencies to '{remote.name}'"):
                infos = references_first(self._local_infos(missing))
                remote.stream.silence_s = TRANSFER_SILENCE_S
                try:
                    Copier(remote, self._store, self._log).upload(infos)
                except RemoteError as error:
                    raise MachineError(f"it refused an input: {error}") from None
                remote.stream.silence_s = None

    def _local_infos(self, paths: Collection[str]) -> list[PathInfo]:
        infos = self._store.database.path_infos(paths)
        if invalid := sorted(set(paths) - infos.keys()):
            raise StoreError(f"path '{invalid[0]}' is not valid")
        return [replace(info, ultimate=False) for info in infos.values()]

    def _build(self, remote: Remote, job: Job) -> None:
        inputs = job.inputs if self._derivation.input_drvs else self._derivation.input_srcs
        try:
            result = remote.client.build_derivation(self._drv_path, self._derivation, inputs)
        except RemoteError as error:
            raise MachineError(f"it refused the build: {error}") from None
        remote.client.settle_log()
        if not result.ok:
            raise BuildFailed(result.message)

    def _download_outputs(self, remote: Remote) -> None:
        outputs = [output.path for _, output in self._derivation.outputs]
        needed = sorted(set(outputs) - self._store.database.valid_among(outputs))
        with self._activity(f"copying outputs from '{remote.name}'"):
            remote.stream.silence_s = TRANSFER_SILENCE_S
            infos = []
            for path in needed:
                info = remote.client.query_path_info(path)
                if info is None:
                    raise MachineError(f"'{path}' is not valid there after its build")
                if info.deriver:
                    check_store_path(info.deriver, self._store.store_dir)
                # Only paths built by this very store are its last word about them.
                infos.append(replace(info, ultimate=False))
            try:
                Copier(remote, self._store, self._log).download(references_first(infos))
            except RemoteError as error:
                raise MachineError(f"cannot copy its outputs: {error}") from None

    def _activity(self, text: str) -> Activity:
        return Activity(self._log, Verbosity.TALKATIVE, ActivityType.UNKNOWN, text)

    def _announce_wait(self, remote: Remote) -> Activity:
        return self._activity(f"waiting for the upload lock to '{remote.name}'")


def limits_of(settings: Settings) -> Limits:
    """What the user allows a build.  The parent does not enforce it on a hook; the builder does."""
    return Limits(
        max_silent_time_s=settings.number("max-silent-time", 0),
        timeout_s=settings.number("timeout", 0),
        max_log_bytes=settings.number("max-build-log-size", 0),
        keep_failed=settings.flag("keep-failed", False),
    )
