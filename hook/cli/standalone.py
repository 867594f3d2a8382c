"""The hook in one process, without a broker: what the shim becomes when there can be none.

Always answers: whatever goes wrong while Nix waits for a reply ends in a decline and one line saying why, because Nix
aborts the user's whole command when a hook just disappears.
"""

import os
import sys

from hook.caller import Caller
from hook.conversation import serve
from hook.hub import new_hub

KEPT_FDS = (0, 1, 2, 4, 5)
"""Standard streams and both ends of the builder's log; anything else leaked from the parent."""


def main() -> int:
    """Serve one conversation on descriptors 0 and 2; returns the exit status."""
    os.closerange(3, 4)
    os.closerange(max(KEPT_FDS) + 1, os.sysconf("SC_OPEN_MAX"))
    argument = sys.argv[-1] if len(sys.argv) > 1 else ""
    return serve(Caller.of_this_process(argument), new_hub(lasting=False))


if __name__ == "__main__":
    sys.exit(main())
