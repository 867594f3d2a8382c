"""Recognise a machine whose store is the very one that this host builds for.

Whatever its address looks like: directories can be mounted twice, and names can lead back here.  So the machine is
asked for a temporary root of a path that nobody else names; if that root appears in our own store, it is the same one.
Tested in test_ownstore.py, and with real stores in the lab.
"""

import os
from typing import TYPE_CHECKING

from hook.errors import MachineError, RemoteError, Trouble
from hook.remote.diagnosis import trouble_of
from hook.store.temproots import is_rooted
from hook.values.path import encode_base32

if TYPE_CHECKING:
    from hook.remote.connection import Remote

THE_SAME = "it is this very store: the build would wait for the locks that Nix holds for it; remove it from `builders`"


def refuse_own(remote: "Remote", store_dir: str, state_dir: str) -> None:
    """MachineError if `remote` is our own store, which has these directories, or one with other paths."""
    path = f"{store_dir}/{encode_base32(os.urandom(20))}-nix-ferry-asks-whose-store-it-is"
    try:
        remote.client.add_temp_root(path)
    except RemoteError as error:
        raise MachineError(f"it refused a temporary root: {error}", trouble_of(str(error))) from None
    except MachineError as error:
        raise remote.explain(error) from None
    if is_rooted(state_dir, path):
        raise MachineError(THE_SAME, Trouble.OWN_STORE)
