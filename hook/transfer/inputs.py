"""Bring what a build reads to the machine that builds.

The steps are the stock hook's.  What differs: nothing is locked unless something is missing; within a broker only
uploads of the same paths wait for each other; and what somebody else uploaded meanwhile is not sent again.

Source: docs/protocols/build-hook.md, "What the stock hook does".  Tested in test_inputs.py, test_session.py and
test_build.py.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice

from hook.errors import ConnectionLost, MachineError, NarError, RemoteError, StoreError, Trouble
from hook.front.log import step
from hook.machines.slots import SlotTable
from hook.remote.child import SETTLE_S
from hook.remote.connection import Remote
from hook.remote.diagnosis import trouble_of
from hook.store.nar import nar_hash
from hook.transfer.claims import Uploads
from hook.transfer.copier import UPLOAD_SILENCE_S, Copier, LocalEnd, modified
from hook.values.closure import references_first
from hook.values.info import PathInfo

REFUSED = re.compile(r"hash mismatch importing path '(?:\x1b\[[0-9;]*m)*(/[^'\x1b]+)")
"""What every release says of a path that is not what it was announced as."""

HASHED_BYTES = 1 << 20

UPLOAD_LOCK_S = 15 * 60.0
"""How long to wait for another hook's upload to the same machine; afterwards both upload at once."""

ASKED_AT_ONCE = 16_000
"""About how many paths a machine is asked in one question, which takes memory here and there until it is answered."""


class Inputs:
    """Uploads from the local store.

    `slots` has the locks that other hooks respect, too.  With `substitute` a machine first fetches what it can.
    """

    def __init__(self, here: LocalEnd, uploads: Uploads, slots: SlotTable, *, substitute: bool) -> None:
        self._here = here
        self._store = here.store
        self._pause = here.caller.pause
        self._log = here.log
        self._uploads = uploads
        self._slots = slots
        self._substitute = substitute

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
            # What it fetches from elsewhere may take any time, and it may have nothing to say meanwhile.
            with remote.stream.patience(None if self._substitute else remote.stream.silence_s):
                missing: AbstractSet[str] = missing_there(remote, remote.known.unknown(paths), self._substitute)
            with ExitStack() as held:
                if missing:
                    before()
                    missing = held.enter_context(self._alone(remote, missing, ended, waiting))
                # Also with nothing to copy: stock says so, too, and the copier knows on which releases.
                with copying():
                    self._send(remote, missing)
            remote.known.add(paths)
        except ConnectionLost as error:
            # Over ssh a machine that refuses a path just says so and goes.
            if error.trouble is Trouble.LOST:
                self._check_ours("\n".join(remote.stream.stderr_lines(SETTLE_S)))
            raise
        except RemoteError as error:
            self._check_ours(str(error))
            raise MachineError(f"it refused an input: {error}", trouble_of(str(error))) from None

    def _check_ours(self, said: str) -> None:
        """StoreError if the path that a machine has refused in these words is indeed damaged here."""
        refused = REFUSED.search(said)
        info = self._store.database.path_infos([refused[1]]).get(refused[1]) if refused else None
        if info is None:
            return
        path, look = info.path, partial(self._pause, 0)
        try:
            digest = nar_hash(self._store.real_path(path), bytearray(HASHED_BYTES), look)
        except (OSError, NarError) as error:
            raise StoreError(f"cannot read '{path}': {error}") from None
        if digest != info.nar_hash:
            raise modified(path)

    def _send(self, remote: Remote, missing: Collection[str]) -> None:
        nar_bytes = 0

        def references() -> Iterator[tuple[str, Iterable[str]]]:
            nonlocal nar_bytes
            for outline in self._store.database.outlines(missing):
                nar_bytes += outline.nar_size
                yield outline.path, outline.references

        ordered = references_first(missing, references())
        with remote.stream.patience(UPLOAD_SILENCE_S):
            copier = Copier(remote, self._here)
            copier.upload(len(ordered), nar_bytes, self._infos(ordered))

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
            return missing_there(remote, paths, substitute=False)

        if self._uploads.shared and not remote.client.breaks_batches:
            with self._uploads.claimed(remote.name, missing, ended, still_missing, waiting(), self._pause) as claimed:
                yield claimed
        else:
            with self._slots.upload_lock(remote.name, UPLOAD_LOCK_S, waiting(), self._pause):
                # Whoever held the lock was most likely sending these very paths.
                yield still_missing(missing)
            self._uploads.end(remote.name)

    def _infos(self, paths: Iterable[str]) -> Iterator[PathInfo]:
        for info in self._store.database.infos(paths):
            # Only paths built by a store itself are its last word about them.
            yield replace(info, ultimate=False) if info.ultimate else info


def missing_there(remote: Remote, paths: Iterable[str], substitute: bool) -> set[str]:
    """Those of `paths` that are not valid on the machine; with `substitute` it first fetches what it can."""
    missing: set[str] = set()
    left = iter(paths)
    while some := set(islice(left, ASKED_AT_ONCE)):
        missing |= some - remote.client.query_valid_paths(some, substitute)
    return missing
