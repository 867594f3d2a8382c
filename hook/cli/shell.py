"""A shell on a machine, over the same ssh as builds: for what Nix's protocols do not tell."""

from dataclasses import replace

from hook.machines import Machine
from hook.routes import Routes
from hook.transport import Command

CAPABILITIES = """
NIX_CONFIG="extra-experimental-features = nix-command"; export NIX_CONFIG
{ nix config show </dev/null 2>/dev/null || nix show-config </dev/null 2>/dev/null; } |
  grep -E '^(system|extra-platforms|system-features) = '
"""
"""A script for its standard input that prints what Nix could build there, as settings: `system = x86_64-linux`."""


def shell_command(machine: Machine, routes: Routes, command: str) -> Command | None:
    """What runs `command` there; None if the machine is not reached by ssh.

    ConfigurationError if there is no way to it.
    """
    route = routes.to(machine)
    if not isinstance(route, Command) or "--" not in route.argv:
        return None
    ssh = route.argv[: route.argv.index("--") + 1]
    return replace(route, argv=(*ssh, command))
