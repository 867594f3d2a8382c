"""The executable that the shim starts where there can be no broker: `nix-ferry-standalone FD`.

Serves one hook over the socket FD, in a process that ends with it.  Whatever goes wrong before a build is accepted,
down to this program not being there at all, the shim notices, and hands the conversation to Nix's own hook.
Tested in broker/test_shim.py.
"""

import socket
import sys

from hook.broker.conversation import serve
from hook.broker.serving import Greeting, converse, receive_header
from hook.front.caller import Caller
from hook.session.hub import Hub, new_hub


def main() -> int:
    """Serve one conversation."""
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        _, length = receive_header(connection)
        hub = new_hub(lasting=False)
        converse(connection, Greeting.receive(connection, length), lambda caller: _serve(caller, hub), root=None)
    return 0


def _serve(caller: Caller, hub: Hub) -> int:
    try:
        return serve(caller, hub)
    finally:
        # Not at our end: the shim has us killed once it has heard the last word.
        if "hook.scratch" in sys.modules:
            from hook.scratch import remove

            remove()


if __name__ == "__main__":
    sys.exit(main())
