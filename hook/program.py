"""The Nix that started a hook, as something to execute: its own executable, found through the process itself.

Nix is one executable that looks at the name it is called by.  Tested in test_program.py.
"""

import os
import shutil
from collections.abc import Mapping


def find_nix(pid: int, environ: Mapping[str, str]) -> str | None:
    """A path by which the Nix that process `pid` runs can be executed; `nix` in PATH if that is none, None without."""
    running = f"/proc/{pid}/exe"
    try:
        path = os.readlink(running)
        # A number that was the parent's can be another user's process by now.
        if os.stat(running).st_uid not in (0, os.geteuid()):
            path = ""
    except OSError:
        path = ""
    if not os.path.basename(path).startswith("nix"):
        return shutil.which("nix", path=environ.get("PATH"))
    try:
        # The link stays executable when the file was replaced by an upgrade, which its text would not be.
        return path if os.path.samefile(path, running) else running
    except OSError:
        return running
