"""Prepare a Debian machine for the lab: `python -m tests.lab.setup` installs what is missing and makes the roots.

Does nothing, quickly, when all is there.  Needs root.
"""

import os
import subprocess
import sys

from tests.lab import roots
from tests.lab.install import SOURCES

NEEDS = (
    *("flock=util-linux", "mmdebstrap=mmdebstrap", "nix-store=nix-bin", "nsenter=util-linux"),
    *("setpriv=util-linux", "ssh=openssh-client", "ssh-keygen=openssh-client", "unshare=util-linux"),
)
"""What tests run outside the lab's hosts, and the package each comes from."""


def main() -> int:
    if os.geteuid() != 0:
        print("the lab makes namespaces and mounts: run this as root", file=sys.stderr)
        return 1
    try:
        subprocess.run([SOURCES / ".ci" / "packages", *NEEDS], check=True)
        for suite in (*roots.SUITES, *roots.OLD, roots.BOOTED):
            print(f"{suite}: {roots.root(suite)}")
    except subprocess.CalledProcessError as error:
        print(f"{' '.join(map(str, error.cmd))}: exit status {error.returncode}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
