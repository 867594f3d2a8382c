"""A shell on a machine, over the same ssh as builds: for what Nix's protocols do not tell."""

from dataclasses import replace

from hook.machines import Machine
from hook.routes import Routes
from hook.transport import Command


def shell_command(machine: Machine, routes: Routes, command: str) -> Command | None:
    """What runs `command` there; None if the machine is not reached by ssh.

    ConfigurationError if there is no way to it.
    """
    route = routes.to(machine)
    if not isinstance(route, Command) or "--" not in route.argv:
        return None
    ssh = route.argv[: route.argv.index("--") + 1]
    return replace(route, argv=(*ssh, command))
