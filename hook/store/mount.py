"""Make a store that is mounted read-only writable for this process, as Nix does on NixOS.

Normally nothing is left to do: the parent has remounted its own view of the store and the hook inherits that view.
"""

import os

from hook.errors import StockOnly

_CLONE_NEWNS = 0x20000
_MS_REMOUNT = 0x20
_MS_BIND = 0x1000


def make_writable(real_store_dir: str) -> None:
    """Return once `real_store_dir` is writable for this thread and its children; StockOnly if it cannot be."""
    try:
        if not os.statvfs(real_store_dir).f_flag & os.ST_RDONLY:
            return
    except OSError as error:
        raise StockOnly(f"cannot examine '{real_store_dir}': {error.strerror}") from error
    if os.geteuid() != 0:
        raise StockOnly(f"'{real_store_dir}' is mounted read-only")
    _remount(real_store_dir)


def _remount(path: str) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    # The flags of a bind mount belong to one mount namespace: nobody else's view of the store changes.
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise StockOnly(f"cannot leave the mount namespace: {os.strerror(ctypes.get_errno())}")
    if libc.mount(None, os.fsencode(path), b"none", ctypes.c_ulong(_MS_REMOUNT | _MS_BIND), None) != 0:
        raise StockOnly(f"cannot remount '{path}' writable: {os.strerror(ctypes.get_errno())}")
