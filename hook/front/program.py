"""The Nix that started a hook, as something to execute: its own executable, found through the process itself.

Nix is one executable that looks at the name it is called by.  Tested in test_program.py.
"""

import os
import shutil
from collections.abc import Mapping


def _is_ours(pid: int) -> bool:
    """Whether all user ids of the process are ours: others cannot make one, whatever they execute."""
    with open(f"/proc/{pid}/status") as status:
        uids = next((line.split()[1:] for line in status if line.startswith("Uid:")), [])
    return uids == [str(os.geteuid())] * 4


def find_nix(pid: int, environ: Mapping[str, str]) -> str | None:
    """A path by which the Nix that process `pid` runs can be executed; `nix` in PATH if that is none, None without.

    Only a process of our own user counts: the one that was meant may have ended, and its number be that of another.
    """
    running = f"/proc/{pid}/exe"
    try:
        path = os.readlink(running) if _is_ours(pid) else ""
    except OSError:
        path = ""
    if not os.path.basename(path).startswith("nix"):
        return shutil.which("nix", path=environ.get("PATH"))
    try:
        # The link stays executable when the file was replaced by an upgrade, which its text would not be.
        return path if os.path.samefile(path, running) else running
    except OSError:
        return running
