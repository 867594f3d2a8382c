"""Bring what a build reads to the machine that builds.

The steps are the stock hook's, see the build-hook protocol, section 8.  What differs: nothing is locked unless
something is missing; within a broker only uploads of the same paths wait for each other; and what somebody else
uploaded meanwhile is not sent again.  Tested in test_session.py and test_build.py.
"""

from collections.abc import Callable, Collection, Iterator
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace

from hook.closure import references_first
from hook.errors import MachineError, RemoteError, StoreError
from hook.log import Log, step
from hook.remote import Remote
from hook.services import Services
from hook.store.info import PathInfo
from hook.transfer import UPLOAD_SILENCE_S, Copier
from hook.trouble import trouble_of
from hook.uploads import Uploads

UPLOAD_LOCK_S = 15 * 60.0
"""How long to wait for another hook's upload to the same machine; afterwards both upload at once."""


class Inputs:
    """Uploads from the local store."""

    def __init__(self, services: Services, uploads: Uploads, log: Log) -> None:
        self._services = services
        self._store = services.store
        self._uploads = uploads
        self._log = log
        self._substitute = services.machines_substitute

    def upload(self, remote: Remote, paths: Collection[str], before: Callable[[], object]) -> None:
        """Make `paths`, which are closed under references, valid on the machine; calls `before` if any is missing."""
        self._upload(
            remote,
            paths,
            before=before,
            waiting=lambda: step(self._log, f"waiting for the upload lock to '{remote.name}'"),
            copying=lambda: step(self._log, f"copying dependencies to '{remote.name}'"),
        )

    def upload_derivation(self, remote: Remote, drv_path: str, before: Callable[[], object]) -> None:
        """Make the derivation at `drv_path` valid on the machine, with everything it refers to."""
        self._upload(remote, self._store.database.closure([drv_path]), before)

    def _upload(
        self,
        remote: Remote,
        paths: Collection[str],
        before: Callable[[], object],
        waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
        copying: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        try:
            ended = self._uploads.ended(remote.name)
            missing: AbstractSet[str] = remote.known.unknown(paths)
            if missing:
                # What it fetches from elsewhere may take any time, and it may have nothing to say meanwhile.
                with remote.stream.patience(None if self._substitute else remote.stream.silence_s):
                    missing -= remote.client.query_valid_paths(missing, self._substitute)
            with ExitStack() as held:
                if missing:
                    before()
                    missing = held.enter_context(self._alone(remote, missing, ended, waiting))
                # Also with nothing to copy: stock says so, too.
                with copying():
                    infos = references_first(self._local_infos(missing))
                    with remote.stream.patience(UPLOAD_SILENCE_S):
                        Copier(remote, self._store, self._log).upload(infos)
            remote.known.add(paths)
        except RemoteError as error:
            raise MachineError(f"it refused an input: {error}", trouble_of(str(error))) from None

    @contextmanager
    def _alone(
        self,
        remote: Remote,
        missing: AbstractSet[str],
        ended: int,
        waiting: Callable[[], AbstractContextManager[object]],
    ) -> Iterator[AbstractSet[str]]:
        """While nobody else here sends any of these paths to the machine; yields those that are missing there then."""

        def still_missing(paths: AbstractSet[str]) -> AbstractSet[str]:
            return paths - remote.client.query_valid_paths(paths, substitute=False)

        pause = self._services.caller.pause
        if self._uploads.shared and not remote.client.breaks_batches:
            with self._uploads.claimed(remote.name, missing, ended, still_missing, waiting(), pause) as claimed:
                yield claimed
        else:
            with self._services.slots.upload_lock(remote.name, UPLOAD_LOCK_S, waiting(), pause):
                # Whoever held the lock was most likely sending these very paths.
                yield still_missing(missing)

    def _local_infos(self, paths: Collection[str]) -> list[PathInfo]:
        infos = self._store.database.path_infos(paths)
        if invalid := sorted(set(paths) - infos.keys()):
            raise StoreError(f"path '{invalid[0]}' is not valid")
        # Only paths built by a store itself are its last word about them.
        return [replace(info, ultimate=False) if info.ultimate else info for info in infos.values()]
