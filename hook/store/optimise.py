"""Share identical files between store paths by hard links, as `auto-optimise-store` asks.

Takes a tree in canonical form and leaves it in that form.  Sharing is an economy: where the file system refuses another
link, or a collector took the shared file away, the file stays as it is.  store/test_optimise.py compares with Nix.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from hook.errors import StoreError
from hook.store.nar import nar_hash
from hook.values.path import encode_base32

MTIME_NS = 1_000_000_000
"""The time of everything in a store: one second after the epoch."""

_LINK_REFUSED = frozenset({errno.EMLINK, errno.ENOSPC, errno.ENOENT})


def optimise_path(real_path: str, real_store_dir: str, *, fsync: bool) -> None:
    """Make everything below `real_path` a link to an identical file in the store, or let others link to it.

    With `fsync`, every directory that was changed is on disk afterwards.
    """
    links_dir = os.path.join(real_store_dir, ".links")
    buffer = bytearray(1 << 18)
    try:
        os.makedirs(links_dir, exist_ok=True)
        for path, status in _files(real_path):
            link = os.path.join(links_dir, _link_name(path, buffer))
            if _offer(path, status, link):
                continue
            directory = os.path.dirname(path)
            if directory == real_store_dir:
                _replace(path, link, real_store_dir)
            else:
                _replace_within(directory, path, link, real_store_dir, fsync)
    except OSError as error:
        raise StoreError(f"cannot optimise '{real_path}': {error}") from error


def _files(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """The regular files and symlinks at or below `path`."""
    pending = [path]
    while pending:
        path = pending.pop()
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            pending.extend(os.path.join(path, name) for name in os.listdir(path))
        else:
            yield path, status


def _link_name(path: str, buffer: bytearray) -> str:
    # A NAR tells an executable from a plain file, which must not share an inode.
    return encode_base32(nar_hash(path, buffer))


def _offer(path: str, status: os.stat_result, link: str) -> bool:
    """Whether there is nothing to replace: `path` has become the shared file, or is it, or there can be none."""
    try:
        shared = os.lstat(link)
        if shared.st_size == status.st_size:
            return shared.st_ino == status.st_ino
        # Somebody wrote to a file of the store: nobody else shall get this content.
        os.unlink(link)
    except FileNotFoundError:
        pass
    try:
        os.link(path, link, follow_symlinks=False)
    except FileExistsError:
        # Another process was faster.
        return False
    except OSError as error:
        if error.errno not in _LINK_REFUSED:
            raise
    return True


def _replace_within(directory: str, path: str, link: str, real_store_dir: str, fsync: bool) -> None:
    """Replace `path` in a directory that must be as before afterwards."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        accessed_ns = os.fstat(fd).st_atime_ns
        os.fchmod(fd, 0o755)
        try:
            _replace(path, link, real_store_dir)
        finally:
            os.fchmod(fd, 0o555)
            os.utime(fd, ns=(accessed_ns, MTIME_NS))
        if fsync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _replace(path: str, link: str, real_store_dir: str) -> None:
    temporary = os.path.join(real_store_dir, f".tmp-link-{os.getpid()}-{os.urandom(8).hex()}")
    try:
        os.link(link, temporary, follow_symlinks=False)
        try:
            os.rename(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        if error.errno not in _LINK_REFUSED:
            raise
