"""One build on one connected machine: inputs there, the build, outputs here.

The order of the steps is the stock hook's, see the build-hook protocol, section 8.  What differs: the upload lock is
taken only when something is missing, and an upload that another hook finished meanwhile is not repeated.
Raises BuildFailed when the derivation itself fails, MachineError when another machine may do better.
"""

from hook.closure import references_first
from hook.errors import BuildFailed, MachineError, NarError, RemoteError, StockOnly
from hook.front import Job
from hook.log import Activity, Log
from hook.protocol.activity import ActivityType, Verbosity
from hook.protocol.worker import Options
from hook.remote import Remote
from hook.settings import Settings
from hook.slots import SlotTable
from hook.store.derivation import Derivation
from hook.store.local import LocalStore
from hook.transfer import download, upload

UPLOAD_LOCK_S = 15 * 60.0
"""How long to wait for another hook's upload to the same machine; afterwards both upload at once."""

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
        """StockOnly if `remote` needs the derivation's own closure, because it does not trust us to name its outputs."""
        if remote.client.hello.trusted is False and self._derivation.is_input_addressed:
            raise StockOnly(f"'{remote.name}' does not trust the user we connect as")

    def run(self, remote: Remote, job: Job, lock_stem: str) -> None:
        """Build every output that is not valid here."""
        if options := session_options(self._settings, self._log.verbosity):
            remote.client.set_options(options)
        self._upload_inputs(remote, job, lock_stem)
        self._build(remote, job)
        self._download_outputs(remote)

    def _upload_inputs(self, remote: Remote, job: Job, lock_stem: str) -> None:
        substitute = self._settings.flag("builders-use-substitutes", False)
        missing = job.inputs - remote.client.query_valid_paths(job.inputs, substitute)
        if not missing:
            return
        with self._slots.upload_lock(lock_stem, UPLOAD_LOCK_S, self._announce_wait(remote)):
            # Whoever held the lock was most likely sending these very paths.
            missing -= remote.client.query_valid_paths(missing, substitute=False)
            with self._activity(f"copying dependencies to '{remote.name}'"):
                infos = references_first(self._store.valid_infos(missing))
                remote.stream.silence_s = TRANSFER_SILENCE_S
                try:
                    upload(remote.client, remote.stream, self._store, infos, self._log)
                except RemoteError as error:
                    raise MachineError(f"it refused an input: {error}") from None
                remote.stream.silence_s = None

    def _build(self, remote: Remote, job: Job) -> None:
        inputs = job.inputs if self._derivation.input_drvs else self._derivation.input_srcs
        try:
            result = remote.client.build_derivation(self._drv_path, self._derivation, inputs)
        except RemoteError as error:
            raise MachineError(f"it refused the build: {error}") from None
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
                infos.append(info)
            try:
                download(remote.client, remote.stream, self._store, references_first(infos), self._log)
            except (RemoteError, NarError) as error:
                raise MachineError(f"cannot copy its outputs: {error}") from None

    def _activity(self, text: str) -> Activity:
        return Activity(self._log, Verbosity.TALKATIVE, ActivityType.UNKNOWN, text)

    def _announce_wait(self, remote: Remote) -> Activity:
        return self._activity(f"waiting for the upload lock to '{remote.name}'")


def session_options(settings: Settings, verbosity: int) -> Options | None:
    """The options to send, or None if the user set none that a builder should know.

    SetOptions has fields that override the builder's own configuration whether one means it or not (cores,
    substitution), and the stock hook never sends it; so neither do we without need.
    """
    timeout_s = settings.number("timeout", 0)
    max_silent_time_s = settings.number("max-silent-time", 0)
    max_log_bytes = settings.number("max-build-log-size", 0)
    keep_failed = settings.flag("keep-failed", False)
    if not (timeout_s or max_silent_time_s or max_log_bytes or keep_failed):
        return None
    others = {}
    if timeout_s:
        others["timeout"] = str(timeout_s)
    if max_log_bytes:
        others["max-build-log-size"] = str(max_log_bytes)
    return Options(
        keep_failed=keep_failed,
        keep_going=False,
        fallback=False,
        verbosity=max(verbosity, Verbosity.INFO),
        max_silent_time_s=max_silent_time_s,
        cores=0,
        substitute=settings.flag("substitute", True),
        others=others,
    )
