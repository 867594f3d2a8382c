"""Root directories of the Debian releases whose Nix we test with, made once and kept in the user's cache.

A root is named after its suite and a digest of its recipe, appears under that name only when complete, and is made anew
when the recipe changes.  Nobody writes to it: hosts put an overlay on it.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

SUITES = ("bookworm", "trixie", "sid")
"""What every test runs on."""

OLD = ("bullseye",)
"""What is built on only, by tests that say so: Nix 2.3, whose protocols are the oldest spoken here."""

PACKAGES = (
    "ca-certificates",
    "iproute2",
    "mount",
    "nix-bin",
    "openssh-client",
    "openssh-server",
    "procps",
    "python3",
    "python3-cffi-backend",
    "sqlite3",
    "util-linux",
)

BOOTED = "booted"
"""A root of its own, in which systemd can be the first process."""

BOOTED_SUITE = SUITES[0]
BOOTED_PACKAGES = (*PACKAGES, "dbus", "libpam-systemd", "systemd", "systemd-sysv")

UNREAD = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")
"""Files of packages that no test reads and that would double a root's size."""


VERSION_FILE = "/etc/nix-version"
"""Where a root says what `nix --version` prints in it."""


def cache_directory() -> Path:
    """Return where roots are kept: ${XDG_CACHE_HOME:-~/.cache}/nix-ferry/roots."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "nix-ferry" / "roots"


def recipe(suite: str, mirror: str | None, target: str) -> list[str]:
    """Return the command that makes the root of `suite`, or BOOTED, in `target`."""
    suite, packages = (BOOTED_SUITE, BOOTED_PACKAGES) if suite == BOOTED else (suite, PACKAGES)
    options = ["--variant=essential", "--quiet", f"--include={','.join(packages)}"]
    # A snapshot mirror serves release files that are past their date.
    options.append('--aptopt=Acquire::Check-Valid-Until "false"')
    options += [f"--dpkgopt=path-exclude={pattern}" for pattern in UNREAD]
    options.append(f'--customize-hook=chroot "$1" nix --version > "$1{VERSION_FILE}"')
    return ["mmdebstrap", *options, suite, target, *([mirror] if mirror else [])]


@functools.cache
def machine_mirror() -> str | None:
    """Return the Debian mirror this machine's own apt uses, None if it does not say."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
    command += ["Created-By: Packages", "Label: Debian", "Component: main"]
    mirrors = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return mirrors[0] if mirrors else None


def root(suite: str) -> Path:
    """Return the root directory of `suite`, or BOOTED, making it first if need be (half a minute)."""
    finished = _path(suite)
    finished.parent.mkdir(parents=True, exist_ok=True)
    with _locked(finished.with_name(f"{suite}.lock")):
        if not finished.is_dir():
            # Roots of other recipes, and what an interrupted run left.
            for stale in finished.parent.glob(f"{suite}-*"):
                shutil.rmtree(stale)
            unfinished = tempfile.mkdtemp(prefix=f"{suite}-unfinished-", dir=finished.parent)
            subprocess.run(recipe(suite, machine_mirror(), unfinished), check=True)
            os.rename(unfinished, finished)
    return finished


def other(suite: str) -> str:
    """Return another one than `suite`."""
    return SUITES[SUITES.index(suite) - 1]


def label(suite: str) -> str:
    """Return the version of Nix in the root of `suite`, `2.8.0` say, or the suite if that root is not made yet."""
    made = list(cache_directory().glob(f"{suite}-*{VERSION_FILE}"))
    return made[0].read_text().split()[-1] if made else suite


def _path(suite: str) -> Path:
    command = recipe(suite, machine_mirror(), "")
    return cache_directory() / f"{suite}-{hashlib.sha256(' '.join(command).encode()).hexdigest()[:8]}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
