"""A client whose ssh is set up by the test, and a builder that is reached by it.

Two clients stand for all, the oldest and the newest Nix and OpenSSH: nothing here depends on what lies between.  The
builder accepts one key, which lies where ssh does not look by itself, and its sshd listens on a port of its own.  That
sshd is the oldest, because from OpenSSH 9.8 on an address is locked out for a while after a login that failed.
"""

import os

from tests.lab import roots
from tests.lab.host import HOST_KEY, Host, Output
from tests.lab.install import HOOK
from tests.lab.offload import nix_build

ENDS = (roots.SUITES[0], roots.SUITES[-1])
KEY = "/root/keys/one"


class Site:
    """A client whose ssh knows nothing yet, and a builder that accepts its KEY."""

    def __init__(self, client: Host, builder: Host) -> None:
        self.client = client
        self.builder = builder
        client.run(["rm", "-rf", "/root/.ssh"])
        self.make_key(KEY)
        self.authorize(builder)

    def make_key(self, path: str, passphrase: str = "") -> None:
        self.client.run(["mkdir", "-p", os.path.dirname(path)])
        self.client.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", path])

    def authorize(self, host: Host, key: str = KEY) -> None:
        """Let `key` in to `host`, and no other."""
        host.write_file("/etc/ssh/authorized_keys", self.client.read_file(key + ".pub"), 0o600)

    def know(self, host: Host, name: str = "") -> None:
        """Let ssh know the key of `host` by `name`, by default that of its address and port."""
        known = self.client.path("/root/.ssh/known_hosts")
        known.parent.mkdir(mode=0o700, exist_ok=True)
        with known.open("a") as file:
            file.write(f"{name or f'[127.0.0.1]:{host.port}'} {host.read_file(HOST_KEY + '.pub')}")

    def config(self, *lines: str) -> None:
        """Write the user's ssh_config."""
        self.client.write_file("/root/.ssh/config", "\n".join(lines) + "\n", 0o600)

    def build(self, machine: str, check: bool = True, **env: str) -> Output:
        """Build something on `machine`, a line of `builders`; a broker that remembers earlier failures is gone."""
        self.client.stop_broker()
        self.client.configure(hook=HOOK, builders=machine)
        return self.client.run(nix_build("from-source", seed="ssh"), env=env, check=check, timeout=60)

    def logins(self, host: Host) -> list[str]:
        """Return the users for whom `host` has accepted a key."""
        lines = host.read_file("/var/log/sshd.log").splitlines()
        return [line.split()[3] for line in lines if line.startswith("Accepted publickey for")]


def works(result: Output) -> bool:
    return result.stdout.startswith("/nix/store/") and "cannot build on" not in result.stderr
