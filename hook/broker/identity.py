"""Which build of nix-ferry this is: a version number says too little, since two commits may share one.

`share/nix-ferry/identity` beside the directory of programs has a hash of the sources (setup.py), and is all that the
shim, which may lie elsewhere and be older, reads of an installation.  Installed in place, nothing has an identity.
Tested in broker/test_client.py and lab/test_brokers.py.
"""

import os
import sys

FILE = "../share/nix-ferry/identity"
"""As seen from the programs."""


def programs() -> str:
    """The directory of the program that runs."""
    return os.path.dirname(os.path.realpath(sys.argv[0]))


def installed() -> str:
    """The identity of what is installed now; empty if nothing says so."""
    try:
        with open(os.path.join(programs(), FILE), encoding="utf-8") as file:
            return file.readline().strip()
    except (OSError, ValueError):
        return ""


IDENTITY = installed()
"""What was installed when this process began."""
