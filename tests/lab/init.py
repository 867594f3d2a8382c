"""The first process of a host: give it a file system of its own, then keep it alive until standard input ends.

Runs as PID 1 of new mount, PID, UTS and IPC namespaces (see host.py), as `init.py LOWER NAME`.  Everything the host
writes lands in one tmpfs that only this mount namespace knows.  When this process ends, for whatever reason, the kernel
kills every process of the host and frees the tmpfs: a host leaves nothing behind even if its owner is killed.
"""

import ctypes
import os
import signal
import socket
import sys

MS_BIND, MS_REC, MNT_DETACH = 4096, 16384, 2

FRESH = ("nix", "root", "run", "tmp")
"""Directories that start empty instead of showing what the lower root has there."""

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *args: bytes | int | None) -> None:
    if getattr(libc, name)(*args) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}{args}: {os.strerror(error)}")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, options: str = "") -> None:
    call("mount", source.encode(), target.encode(), kind.encode() if kind else None, flags, options.encode())


def build_root(lower: str) -> None:
    """Make an overlay on `lower` and enter it; nothing outside stays reachable through it."""
    # Mounted inside the lower root, where it can hide neither that root nor anything the overlay needs.
    base = os.path.join(lower, "mnt")
    mount("host", base, "tmpfs", 0, "mode=0755")
    os.chdir(base)
    for name in ("upper", "work", "merged"):
        os.mkdir(name)
    mount("host", "merged", "overlay", 0, f"lowerdir={lower},upperdir={base}/upper,workdir={base}/work")
    os.chdir("merged")
    for name in FRESH:
        os.mkdir(f"../{name}")
        os.makedirs(name, exist_ok=True)
        mount(f"../{name}", name, None, MS_BIND)
    os.chmod("tmp", 0o1777)
    mount("proc", "proc", "proc")
    mount("/dev", "dev", None, MS_BIND | MS_REC)
    mount("/sys", "sys", None, MS_BIND | MS_REC)
    call("pivot_root", b".", b"mnt")
    call("umount2", b"/mnt", MNT_DETACH)
    os.chdir("/")


def main() -> None:
    lower, name = sys.argv[1:]
    socket.sethostname(name)
    build_root(lower)
    # Orphans of the host become our children; ignored, the kernel reaps them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # The owner's Ctrl-C is for the owner, who then closes our standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.write(1, b"ready\n")
    while os.read(0, 4096):
        pass


main()
