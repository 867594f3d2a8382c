"""The local store as a build hook uses it: read from it, and import outputs into it.

An import is prepare → restore (by the caller) → check_import → commit.  The parent process holds the lock of every
output meanwhile, which is why neither the daemon nor `nix-store --import` can do this for us.  Nothing is valid before
commit; what a failed import leaves on disk is removed by the next attempt or by the collector.  Tested in
store/test_local.py against Nix, and in store/test_local_by_hand.py without.
"""

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Self, TypedDict

from hook.errors import StockOnly, StoreError
from hook.store.databases import Access, Databases
from hook.store.location import StoreLocation, find_store
from hook.store.mount import make_writable
from hook.store.temproots import TempRoots
from hook.values.derivation import Derivation, parse_derivation
from hook.values.info import HASH_SIZES, PathInfo, check_content_address, check_path_info, format_hash
from hook.values.path import check_store_path
from hook.values.release import Release, release_of
from hook.values.settings import Settings

if TYPE_CHECKING:
    from hook.store.database import Database

IGNORED_ACLS = "security.csm security.selinux system.nfs4_acl"
"""Nix's default of the setting `ignored-acls`."""


DEPTH_LIMITED: Release = (2, 30)
"""From here on Nix refuses deep NARs, at least in its last patch releases; before, too few of its releases do."""

MAX_DEPTH = 63
"""Of a node below the root.  What is deeper, such a Nix could neither verify nor copy.

Source: docs/protocols/nar.md, "What is refused".
"""


class RestoreOptions(TypedDict):
    """How to restore a NAR into this store: keyword arguments of `hook.store.nar.Restorer`."""

    max_depth: int | None
    fsync: bool
    kept_xattrs: Sequence[str]


class LocalStore:
    """A local store that this process may write to; its database is opened when first used."""

    def __init__(
        self,
        location: StoreLocation,
        settings: Settings,
        databases: Databases | None = None,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self.store_dir = location.store_dir
        self.real_store_dir = location.real_store_dir
        self.state_dir = location.state_dir
        self.log_dir = location.log_dir
        self.temp_roots = TempRoots(location.state_dir, pause=pause)
        self._databases = databases or Databases(max_idle=0)
        self._pause = pause
        self._access = Access(
            location.state_dir, settings.flag("use-sqlite-wal", True), settings.flag("fsync-metadata", True)
        )
        self._release = release_of(settings)
        self._max_depth = MAX_DEPTH if self._release >= DEPTH_LIMITED else None
        self._fsync_paths = settings.flag("fsync-store-paths", False)
        self._sync = settings.flag("sync-before-registering", False)
        self._optimise = settings.flag("auto-optimise-store", False)
        self._kept_xattrs = settings.words("ignored-acls", IGNORED_ACLS)

    @classmethod
    def open(
        cls,
        settings: Settings,
        environ: Mapping[str, str],
        databases: Databases | None = None,
        pause: Callable[[float], object] = time.sleep,
    ) -> Self:
        """The store that `settings` and `environ` mean, made writable; StockOnly if it needs the stock hook.

        Its database is one of `databases`, if any are given.  `pause` waits for a while when others write to it, and
        may raise an error to give up.

        To be called by the thread that will write: a remount reaches only that thread and its children.
        """
        location = find_store(settings.text("store", "") or environ.get("NIX_REMOTE", ""), environ)
        make_writable(location.real_store_dir)
        return cls(location, settings, databases, pause)

    @cached_property
    def database(self) -> "Database":
        """The store's database."""
        return self._databases.take(self._access, self._pause)

    def close(self) -> None:
        """Give the database back and end the temporary roots."""
        if "database" in self.__dict__:
            self._databases.give(self._access, self.database)
            del self.database
        self.temp_roots.close()

    # Reading

    def real_path(self, path: str) -> str:
        """Where the store path `path` is on disk."""
        return self.real_store_dir + path[len(self.store_dir) :]

    def read_derivation(self, drv_path: str) -> Derivation:
        """Parse the derivation at `drv_path`; StoreError if it is missing or malformed, StockOnly if unsupported."""
        check_store_path(drv_path, self.store_dir)
        if drv_path.endswith(".drv.drv"):
            # What it makes is a derivation itself, which becomes valid by rules of its own.
            raise StockOnly("dynamic derivations")
        try:
            with open(self.real_path(drv_path), "rb") as file:
                derivation = parse_derivation(file.read())
            for path in _paths_of(derivation):
                check_store_path(path, self.store_dir)
        except OSError as error:
            raise StoreError(f"cannot read derivation '{drv_path}': {error.strerror}") from error
        except StoreError as error:
            raise StoreError(f"error parsing derivation '{drv_path}': {error}") from error
        for _, output in derivation.outputs:
            method, _, algorithm = output.hash_algo.rpartition(":")
            if output.hash_algo and (method == "git" or algorithm not in HASH_SIZES):
                raise StockOnly(f"outputs addressed by '{output.hash_algo}'")
        return derivation

    # Importing

    def restore_options(self) -> RestoreOptions:
        """How this store wants its files written."""
        return {"max_depth": self._max_depth, "fsync": self._fsync_paths, "kept_xattrs": self._kept_xattrs}

    @contextmanager
    def locked(
        self, paths: Collection[str], on_wait: Callable[[str], object], pause: Callable[[float], object]
    ) -> Iterator[None]:
        """Keep other processes from importing those of `paths` that are not valid and not locked by the parent.

        `on_wait` is told about each that has to be waited for; `pause` waits for as many seconds.
        """
        from hook.store import pathlocks

        # Rooted first, as in `prepare`; the roots keep the locks, too.
        self.temp_roots.add(paths)
        invalid = set(paths) - self.database.valid_among(paths)
        with pathlocks.locked(map(self.real_path, invalid), on_wait, pause=pause):
            yield

    def prepare(self, path: str) -> str | None:
        """Make room for `path`: the place to restore it to, where nothing is now; None if it is valid already."""
        check_store_path(path, self.store_dir)
        # Rooted first: otherwise a collector could delete it between the question and its use.
        self.temp_roots.add([path])
        if self.database.valid_among([path]):
            return None
        real_path = self.real_path(path)
        # Loaded on first use: no reply needs it.
        from hook.store.remove import remove_tree

        remove_tree(real_path)
        return real_path

    def check_import(self, info: PathInfo, nar_hash: bytes, nar_size: int) -> None:
        """StoreError unless `info` can be registered and the restored tree, whose NAR had this hash and size, is it."""
        check_path_info(info, self.store_dir)
        if nar_hash != info.nar_hash:
            raise _mismatch("hash", info.path, format_hash(info.nar_hash), format_hash(nar_hash))
        if nar_size != info.nar_size:
            raise _mismatch("size", info.path, str(info.nar_size), str(nar_size))
        claim = check_content_address(info, self.store_dir)
        if claim:
            from hook.store.content import check_content, counts_positions

            positions = counts_positions(self._release)
            check_content(info, claim, self.real_path(info.path), positions=positions)

    def commit(self, infos: Sequence[PathInfo]) -> None:
        """Make checked imports valid, all of them or none; paths that `prepare` found valid do not belong here."""
        if self._optimise:
            from hook.store.optimise import optimise_path

            for info in infos:
                optimise_path(self.real_path(info.path), self.real_store_dir, fsync=self._fsync_paths)
        if self._fsync_paths:
            _fsync_directory(self.real_store_dir)
        if self._sync:
            os.sync()
        self.database.register(infos, int(time.time()))


def _paths_of(derivation: Derivation) -> list[str]:
    return [
        *(output.path for _, output in derivation.outputs if output.path),
        *(path for path, _ in derivation.input_drvs),
        *derivation.input_srcs,
    ]


def _fsync_directory(path: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise StoreError(f"cannot write '{path}' to disk: {error.strerror}") from error


def _mismatch(what: str, path: str, specified: str, got: str) -> StoreError:
    return StoreError(f"{what} mismatch importing path '{path}';\n  specified: {specified}\n  got:       {got}")
