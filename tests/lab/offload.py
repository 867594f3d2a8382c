"""What every test with a client and a builder does: make them known to each other, and build parts of a graph."""

from collections.abc import Sequence

from tests.lab.host import Host
from tests.lab.install import HOOK
from tests.lab.lab import GRAPHS

SSH_NG = "ssh-ng://"
MARKED_HOOK = "/usr/local/bin/marked-hook"
MARK = "/run/hook-was-here"


def plain(builder: Host, prefix: str = SSH_NG) -> str:
    """Return the URI of the machine line that has no features."""
    return prefix + builder.name


def big(builder: Host, prefix: str = SSH_NG) -> str:
    """Return the URI of the machine line that is kept for builds that require `big-parallel`."""
    return f"{prefix}{builder.name}-big"


def connect(
    client: Host, builder: Host, hook: str | None, prefix: str = SSH_NG, supported: str = "-", **settings: str
) -> None:
    """Let `client` build on `builder`, through `hook`, as two machines of different features.

    `prefix` is the scheme and, if given, the user of the machines' URIs; `supported` are features of the plain one.
    """
    for alias in (builder.name, f"{builder.name}-big"):
        client.trust(builder, alias)
    machines = f"{plain(builder, prefix)} - - 4 1 {supported} ; {big(builder, prefix)} - - 4 1 - big-parallel"
    client.configure(hook=hook, builders=machines, **settings)


def mark(client: Host) -> str:
    """Give `client` a hook that leaves MARK and then becomes ours; returns its path."""
    client.write_file(MARKED_HOOK, f'#!/bin/sh\ntouch {MARK}\nexec {HOOK} "$@"\n', 0o755)
    client.path(MARK).unlink(missing_ok=True)
    return MARKED_HOOK


def nix_build(*attributes: str, seed: str, graph: str = "graph", options: Sequence[str] = ()) -> list[str]:
    """Return the command that builds attributes of `graph`.nix, elsewhere only, and prints their outputs."""
    chosen = [word for attribute in attributes for word in ("-A", attribute)]
    return ["nix-build", f"{GRAPHS}/{graph}.nix", *chosen, "--argstr", "seed", seed, "-j0", "--no-out-link", *options]


def instantiate(client: Host, attribute: str, seed: str, graph: str = "graph") -> str:
    """Return the derivation path of an attribute of `graph`.nix."""
    command = ["nix-instantiate", f"{GRAPHS}/{graph}.nix", "-A", attribute, "--argstr", "seed", seed]
    return client.run(command).stdout.strip()
