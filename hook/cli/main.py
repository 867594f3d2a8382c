"""The nix-ferry command: a list of its subcommands, each in a module of its own.  Tested in cli/test_help.py."""

import click

import hook
from hook.cli.broker import broker
from hook.cli.command import Program
from hook.cli.config import completions, config
from hook.cli.doctor.doctor import doctor
from hook.cli.explain import explain
from hook.cli.install.install import install, uninstall
from hook.cli.machine.commands import machine
from hook.cli.probe.ping import ping
from hook.cli.status.history import history
from hook.cli.status.log import log
from hook.cli.status.metrics import metrics
from hook.cli.status.status import status

EPILOG = """\b
Exit status:
  0  everything is well, or was done
  1  something is wrong, or could not be done; standard error says what
  2  the command line makes no sense

\b
Examples:
  nix-ferry install                    have Nix run the hook
  nix-ferry doctor                     what is missing for builds elsewhere, and what helps
  nix-ferry explain nixpkgs#hello      where that would be built, and why not on the others
  nix-ferry ping fast-box              connect to a machine as a build would
"""


@click.group(
    cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EPILOG
)
@click.version_option(hook.__version__, prog_name="nix-ferry")
def main() -> None:
    """Find out where Nix builds go, and why.

    nix-ferry is a build hook: Nix starts it for every build that another machine could do. These commands look at the
    same settings and the same machines as the hook. With a Nix daemon, run them as root, as the daemon does.
    """


for each in (
    *(completions, config, install, machine, uninstall),
    *(status, history, log, metrics, broker),
    *(explain, ping, doctor),
):
    main.add_command(each)


if __name__ == "__main__":
    main()
