"""What hooks that were killed, and machines that are gone, have left in Nix's state directory; and who uploads now.

Takes no lock and removes nothing: while hooks run, a lock file that is made anew would be another lock.
Tested in test_leftovers.py, and in tests/lab/test_doctor.py.
"""

import os
import re
from collections.abc import Mapping, Sequence

from hook.broker.standing import listens
from hook.cli.doctor.check import Check, Level
from hook.cli.doctor.holders import holders
from hook.machines.builders import Machine
from hook.machines.disabled import Disabled
from hook.machines.slots import MAIN_LOCK, upload_lock_names
from hook.values.release import Release

HOOKS = ("__build-remote", "build-remote", "nix-ferry-broker", "nix-ferry-hook", "nix-ferry-standalone")
"""By these words in a command one knows a hook, stock's or ours."""

STOCK_DIRECTORY = re.compile(r"nix-(\d+)-\d+")
SLOT = re.compile(r"(?P<stem>.*)-\d+")
MOST_NAMES = 3
"""So many are named."""


def check_upload_locks(state_dir: str, machines: Sequence[Machine], release: Release) -> Check:
    """Who holds the locks for uploads: every other stock hook waits for them, for as long as it takes."""
    held = holders(os.path.join(state_dir, "current-load"))
    busy = {machine.uri.render(release): owner for machine in machines if (owner := _uploader(held, machine, release))}
    if not busy:
        return Check("uploads", Level.OK, "no hook keeps others from uploading")
    text = ", ".join(f"that to '{name}' is held by {owner}" for name, owner in busy.items())
    if strangers := [owner for owner in busy.values() if not any(word in owner for word in HOOKS)]:
        fix = f"end {strangers[0].partition(',')[0]}: it is no hook, and stock hooks wait for it without an end"
        return Check("uploads", Level.NOTE, text, fix)
    return Check("uploads", Level.OK, text)


def _uploader(held: Mapping[str, str], machine: Machine, release: Release) -> str | None:
    names = upload_lock_names(machine.uri.render(release))
    return next((held[name] for name in names if name in held), None)


def check_leftovers(
    state_dir: str, private_dir: str, temporary: str, machines: Sequence[Machine], release: Release
) -> Check:
    """Files that nobody needs any more; `temporary` is where stock hooks put theirs."""
    left = [
        *_locks_of_no_machine(os.path.join(state_dir, "current-load"), machines, release),
        *_disabled_and_gone(private_dir, machines),
        *_begun(os.path.join(private_dir, "known-hosts")),
        *_dead_sockets(os.path.join(private_dir, "ssh")),
        *(path for path in _of_dead_processes(temporary, STOCK_DIRECTORY) if "host-key" in _names(path)),
    ]
    if not left:
        return Check("leftovers", Level.OK, "none")
    named = ", ".join(f"'{path}'" for path in left[:MOST_NAMES])
    more = f" and {len(left) - MOST_NAMES} more" if len(left) > MOST_NAMES else ""
    text = f"of machines that are not in 'builders', or of hooks that were killed: {named}{more}"
    return Check("leftovers", Level.NOTE, text, "they do no harm; while nothing is built, they may be removed")


def _locks_of_no_machine(directory: str, machines: Sequence[Machine], release: Release) -> list[str]:
    held = holders(directory)
    stems = {machine.uri.lock_stem(release) for machine in machines}
    known = {name for machine in machines for name in upload_lock_names(machine.uri.render(release))}
    known |= {MAIN_LOCK, *held}
    names = [name for name in _names(directory) if name not in known and _stem(name) not in stems]
    return [os.path.join(directory, name) for name in names]


def _disabled_and_gone(private_dir: str, machines: Sequence[Machine]) -> list[str]:
    disabled = Disabled(private_dir)
    known = {disabled.file(machine) for machine in machines}
    directory = os.path.dirname(disabled.file(machines[0])) if machines else ""
    return [path for name in _names(directory) if (path := os.path.join(directory, name)) not in known]


def _begun(directory: str) -> list[str]:
    """Files of host keys that were not finished."""
    return [os.path.join(directory, name) for name in _names(directory) if name.startswith("tmp")]


def _dead_sockets(directory: str) -> list[str]:
    """Entries at which nobody listens."""
    return [os.path.join(directory, name) for name in _names(directory) if not listens(os.path.join(directory, name))]


def _of_dead_processes(directory: str, pattern: re.Pattern[str]) -> list[str]:
    """Entries whose name has the number of a process that has ended."""
    found = [(name, pattern.fullmatch(name)) for name in _names(directory)]
    return [os.path.join(directory, name) for name, pid in found if pid and not os.path.exists(f"/proc/{pid[1]}")]


def _stem(name: str) -> str:
    slot = SLOT.fullmatch(name)
    return slot["stem"] if slot else name


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
