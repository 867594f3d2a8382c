"""Bring what a build reads to the machine that builds.

The steps are the stock hook's, see the build-hook protocol, section 8.  What differs: the upload lock is taken only
when something is missing, and what another hook uploaded meanwhile is not sent again.  Tested in test_session.py and
test_build.py.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace

from hook.closure import references_first
from hook.errors import MachineError, RemoteError, StoreError
from hook.log import Log, step
from hook.remote import Remote
from hook.slots import SlotTable
from hook.store.info import PathInfo
from hook.store.local import LocalStore
from hook.transfer import TRANSFER_SILENCE_S, Copier

UPLOAD_LOCK_S = 15 * 60.0
"""How long to wait for another hook's upload to the same machine; afterwards both upload at once."""


class Inputs:
    """Uploads from the local store; with `substitute`, a machine first fetches what it can from elsewhere."""

    def __init__(self, store: LocalStore, slots: SlotTable, log: Log, substitute: bool) -> None:
        self._store = store
        self._slots = slots
        self._log = log
        self._substitute = substitute

    def upload(self, remote: Remote, paths: Collection[str]) -> None:
        """Make `paths`, which are closed under references, valid on the machine."""
        self._upload(
            remote,
            paths,
            waiting=lambda: step(self._log, f"waiting for the upload lock to '{remote.name}'"),
            copying=lambda: step(self._log, f"copying dependencies to '{remote.name}'"),
        )

    def upload_derivation(self, remote: Remote, drv_path: str) -> None:
        """Make the derivation at `drv_path` valid on the machine, with everything it refers to."""
        self._upload(remote, self._store.database.closure([drv_path]))

    def _upload(
        self,
        remote: Remote,
        paths: Collection[str],
        waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
        copying: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        try:
            missing = set(paths) - remote.client.query_valid_paths(paths, self._substitute)
            with ExitStack() as held:
                if missing:
                    held.enter_context(self._slots.upload_lock(remote.name, UPLOAD_LOCK_S, waiting()))
                    # Whoever held the lock was most likely sending these very paths.
                    missing -= remote.client.query_valid_paths(missing, substitute=False)
                # Also with nothing to copy: stock says so, too.
                with copying():
                    infos = references_first(self._local_infos(missing))
                    remote.stream.silence_s = TRANSFER_SILENCE_S
                    Copier(remote, self._store, self._log).upload(infos)
                    remote.stream.silence_s = None
        except RemoteError as error:
            raise MachineError(f"it refused an input: {error}") from None

    def _local_infos(self, paths: Collection[str]) -> list[PathInfo]:
        infos = self._store.database.path_infos(paths)
        if invalid := sorted(set(paths) - infos.keys()):
            raise StoreError(f"path '{invalid[0]}' is not valid")
        # Only paths built by a store itself are its last word about them.
        return [replace(info, ultimate=False) for info in infos.values()]
