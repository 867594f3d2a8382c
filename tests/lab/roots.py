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

UNREAD = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")
"""Files of packages that no test reads and that would double a root's size."""


def cache_directory() -> Path:
    """Return where roots are kept: ${XDG_CACHE_HOME:-~/.cache}/nix-ferry/roots."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "nix-ferry" / "roots"


def recipe(suite: str, mirror: str | None, target: str) -> list[str]:
    """Return the command that makes the root of `suite` in `target`."""
    options = ["--variant=essential", "--quiet", f"--include={','.join(PACKAGES)}"]
    # A snapshot mirror serves release files that are past their date.
    options.append('--aptopt=Acquire::Check-Valid-Until "false"')
    options += [f"--dpkgopt=path-exclude={pattern}" for pattern in UNREAD]
    return ["mmdebstrap", *options, suite, target, *([mirror] if mirror else [])]


@functools.cache
def machine_mirror() -> str | None:
    """Return the Debian mirror this machine's own apt uses, None if it does not say."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
    command += ["Created-By: Packages", "Label: Debian", "Component: main"]
    mirrors = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return mirrors[0] if mirrors else None


def root(suite: str) -> Path:
    """Return the root directory of `suite`, making it first if need be (half a minute)."""
    mirror = machine_mirror()
    digest = hashlib.sha256(" ".join(recipe(suite, mirror, "")).encode()).hexdigest()[:8]
    directory = cache_directory()
    directory.mkdir(parents=True, exist_ok=True)
    finished = directory / f"{suite}-{digest}"
    with _locked(directory / f"{suite}.lock"):
        if not finished.is_dir():
            # Roots of other recipes, and what an interrupted run left.
            for stale in directory.glob(f"{suite}-*"):
                shutil.rmtree(stale)
            unfinished = tempfile.mkdtemp(prefix=f"{suite}-unfinished-", dir=directory)
            subprocess.run(recipe(suite, mirror, unfinished), check=True)
            os.rename(unfinished, finished)
    return finished


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
