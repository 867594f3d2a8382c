"""Remove whatever lies at a path, however deep and however protected, without following a symlink.

It may be the leftover of anything: a builder's own tree, read-only, deeper than a path name can be long.  So the walk
goes by directory descriptors, one or two at a time, and without recursion.  Tested in store/test_remove.py.
"""

import errno
import os
from collections.abc import Iterable

from hook.errors import StoreError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str) -> None:
    """Remove the file, symlink or directory at `path`, if there is one; StoreError if something cannot be removed."""
    try:
        _remove(path)
    except OSError as error:
        raise StoreError(f"cannot remove '{path}': {error.strerror}") from error


def _remove(path: str) -> None:
    parent, name = os.path.split(path)
    here = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Of each directory on the way down: its identity and its remaining subdirectories, the one entered last.
        above: list[tuple[tuple[int, int], list[str]]] = []
        directories = _unlink_files(here, [name])
        while True:
            if directories:
                above.append((_identity(here), directories))
                here = _replace(here, _enter(here, directories[-1]))
                directories = _unlink_files(here, os.listdir(here))
            elif above:
                identity, directories = above.pop()
                here = _replace(here, os.open("..", _DIRECTORY, dir_fd=here))
                if _identity(here) != identity:
                    raise OSError(errno.ESTALE, "a directory in it was moved")
                os.rmdir(directories.pop(), dir_fd=here)
            else:
                return
    finally:
        os.close(here)


def _unlink_files(directory: int, names: Iterable[str]) -> list[str]:
    """Unlink `names`; return those that are directories."""
    directories: list[str] = []
    for name in names:
        try:
            os.unlink(name, dir_fd=directory)
        except IsADirectoryError:
            directories.append(name)
        except FileNotFoundError:
            continue
    return directories


def _enter(above: int, name: str) -> int:
    """Open a directory and make sure that its entries can be removed."""
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=above)
    except PermissionError:
        _open_up(above, name)
        fd = os.open(name, _DIRECTORY, dir_fd=above)
    try:
        os.fchmod(fd, 0o700)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_up(above: int, name: str) -> None:
    """Let us into a directory of ours; whatever else has just taken its name keeps its mode."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)


def _replace(fd: int, successor: int) -> int:
    os.close(fd)
    return successor


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
