"""The executable that the shim starts where there can be no broker: `nix-ferry-standalone FD`.

Serves one hook over the socket FD, in a process that ends with it.  Whatever goes wrong before a build is accepted,
down to this program not being there at all, the shim notices, and hands the conversation to Nix's own hook.
"""

import socket
import sys

from hook.conversation import serve
from hook.hub import new_hub
from hook.serving import Greeting, converse, receive_header


def main() -> int:
    """Serve one conversation."""
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        _, length = receive_header(connection)
        hub = new_hub(lasting=False)
        converse(connection, Greeting.receive(connection, length), lambda caller: serve(caller, hub), root=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
