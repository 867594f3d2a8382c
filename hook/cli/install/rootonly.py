"""Whether root alone can change a file, by its path: what root may read settings from, or run, on somebody's word.

Looks at every directory and link on the way, and again at where the links lead.  Tested in test_rootonly.py.
"""

import os
import stat

ROOT = 0


def only_root_changes(path: str) -> bool:
    """Whether nobody but root could write, replace or make what is at the absolute `path`, which may be missing."""
    return _is_guarded(path) and _is_guarded(os.path.realpath(path))


def _is_guarded(path: str) -> bool:
    """The same, without a look at where links lead."""
    if not os.path.isabs(path):
        return False
    # In a sticky directory others can add entries, but cannot replace one of root's.
    others_may_add = False
    reached = "/"
    for name in ("", *path.split("/")):
        reached = os.path.join(reached, name)
        try:
            found = os.lstat(reached)
        except FileNotFoundError:
            return not others_may_add
        except OSError:
            return False
        if found.st_uid != ROOT:
            return False
        others_may_add = bool(found.st_mode & 0o022) and not stat.S_ISLNK(found.st_mode)
        if others_may_add and not (stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX):
            return False
    return True
