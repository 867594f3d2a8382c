"""The first process of a host: give it a file system of its own, then keep it alive until standard input ends.

Runs as PID 1 of new mount, PID, UTS and IPC namespaces (see container.py), as `init.py LOWER NAME`.  Everything the
host writes lands in one tmpfs that only this mount namespace knows.  When this process ends, for whatever reason, the
kernel kills every process of the host and frees the tmpfs: a host leaves nothing behind even if its owner is killed.

With a third argument it becomes that program, which is to boot the host; it must be in a cgroup namespace of its own.
"""

import ctypes
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MNT_DETACH = 1, 32, 4096, 16384, 2

FRESH = ("nix", "root", "run", "tmp")
"""Directories that start empty instead of showing what the lower root has there."""

DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *args: bytes | int | None) -> None:
    if getattr(libc, name)(*args) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}{args}: {os.strerror(error)}")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, options: str = "") -> None:
    call("mount", source.encode(), target.encode(), kind.encode() if kind else None, flags, options.encode())


def share_devices() -> None:
    mount("/dev", "dev", None, MS_BIND | MS_REC)
    mount("/sys", "sys", None, MS_BIND | MS_REC)


def make_devices() -> None:
    """Devices and settings of its own: what boots changes the owners of the first, and the values of the second."""
    mount("dev", "dev", "tmpfs", 0, "mode=0755")
    os.umask(0)
    for name, (major, minor) in DEVICES.items():
        os.mknod(f"dev/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
    for name in ("pts", "shm"):
        os.mkdir(f"dev/{name}")
    mount("devpts", "dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=0620")
    mount("shm", "dev/shm", "tmpfs", 0, "mode=1777")
    os.symlink("pts/ptmx", "dev/ptmx")
    os.symlink("/proc/self/fd", "dev/fd")
    os.umask(0o022)
    mount("proc/sys", "proc/sys", None, MS_BIND)
    mount("", "proc/sys", None, MS_BIND | MS_REMOUNT | MS_RDONLY)
    mount("sys", "sys", "sysfs", MS_RDONLY)
    mount("cgroup", "sys/fs/cgroup", "cgroup2")
    # It has no number yet, and the kernel's modules are not its business.
    with open("etc/machine-id", "w"):
        pass
    os.symlink("/dev/null", "etc/systemd/system/systemd-modules-load.service")


def build_root(lower: str, fill: Callable[[], None]) -> None:
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
    fill()
    call("pivot_root", b".", b"mnt")
    call("umount2", b"/mnt", MNT_DETACH)
    os.chdir("/")


def main() -> None:
    lower, name, *program = sys.argv[1:]
    socket.sethostname(name)
    build_root(lower, make_devices if program else share_devices)
    if program:
        os.write(1, b"ready\n")
        os.execve(program[0], program, {"container": "lab"})
    # Orphans of the host become our children; ignored, the kernel reaps them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # The owner's Ctrl-C is for the owner, who then closes our standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.write(1, b"ready\n")
    while os.read(0, 4096):
        pass


main()
