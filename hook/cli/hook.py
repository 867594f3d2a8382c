"""The executable that Nix runs as `build-hook`.

Always answers: whatever goes wrong while Nix waits for a reply ends in a decline and one line saying why, because Nix
aborts the user's whole command when a hook just disappears.
"""

import os
import sys

from hook.errors import EXIT_FAILED, FerryError, RequestError
from hook.front import Front
from hook.protocol.activity import Verbosity

KEPT_FDS = (0, 1, 2, 4, 5)
"""Standard streams and both ends of the builder's log; anything else leaked from the parent."""


def main() -> int:
    """Serve one conversation on descriptors 0 and 2; returns the exit status."""
    _close_leaked()
    verbosity, complaint = _verbosity(sys.argv)
    front = Front(0, 2, verbosity)
    if complaint:
        front.log.message(Verbosity.WARN, f"warning: {complaint}")
    try:
        from hook import standalone

        return standalone.run(front, os.environ)
    except RequestError as error:
        return _give_up(front, f"cannot understand Nix: {error}")
    except FerryError as error:
        return _give_up(front, str(error))
    except Exception as error:  # noqa: BLE001 - the outermost layer: a stack trace helps no user of Nix
        return _give_up(front, f"internal error in nix-ferry-hook: {_where(error)}")


def _give_up(front: Front, text: str) -> int:
    front.log.error(text)
    if not front.answered:
        front.decline_permanently()
    return EXIT_FAILED


def _verbosity(argv: list[str]) -> tuple[int, str]:
    """The last argument, as every Nix passes it, and what is wrong with it."""
    last = argv[-1] if len(argv) > 1 else ""
    if last.isdecimal() and last.isascii():
        return int(last), ""
    return Verbosity.INFO, f"nix-ferry-hook is started by Nix with a verbosity as last argument, got '{last}'"


def _close_leaked() -> None:
    os.closerange(3, 4)
    os.closerange(max(KEPT_FDS) + 1, os.sysconf("SC_OPEN_MAX"))


def _where(error: Exception) -> str:
    """Type, text and place of an unexpected exception, on one line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno})" if trace else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


if __name__ == "__main__":
    sys.exit(main())
