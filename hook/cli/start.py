"""Where nix-ferry begins: Ctrl-C while its modules are loaded ends it like any program, not with a stack trace.

Tested in lab/test_command.py.
"""

import signal


def main() -> None:
    """Run the command."""
    # A shell has background jobs ignore it.
    watched = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if watched:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from hook.cli.main import main as program

    if watched:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    program()
