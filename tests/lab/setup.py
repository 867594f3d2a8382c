"""Prepare a Debian machine for the lab: `python -m tests.lab.setup` installs what is missing and makes the roots.

Does nothing, quickly, when all is there.  Needs root.
"""

import os
import shutil
import subprocess
import sys

from tests.lab import roots

PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "nsenter": "util-linux",
    "ssh": "openssh-client",
    "unshare": "util-linux",
}
"""What the lab runs outside its hosts, and the package each comes from."""


def install(programs: dict[str, str]) -> None:
    """Install the packages of those `programs` that PATH lacks."""
    missing = sorted({package for program, package in programs.items() if shutil.which(program) is None})
    if missing:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-q"], check=True, env=environment)
        subprocess.run(["apt-get", "install", "-qy", "--no-install-recommends", *missing], check=True, env=environment)


def main() -> int:
    if os.geteuid() != 0:
        print("the lab makes namespaces and mounts: run this as root", file=sys.stderr)
        return 1
    install(PROGRAMS)
    for suite in roots.SUITES:
        print(f"{suite}: {roots.root(suite)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
