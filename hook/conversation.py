"""Serve one caller.  Whatever goes wrong in a session ends here, in a line for the user and an answer for Nix."""

import os
from contextlib import suppress

from hook.caller import Caller, State
from hook.errors import EXIT_FAILED, Cancelled, FerryError, RequestError
from hook.front import Front
from hook.hub import Hub
from hook.protocol.activity import Verbosity
from hook.session import Session


def serve(caller: Caller, hub: Hub) -> int:
    """Serve one conversation; returns the exit status of the hook."""
    try:
        if caller.verbosity is None:
            complaint = f"nix-ferry-hook is started by Nix with a verbosity as last argument, got '{caller.argument}'"
            Front(caller).log.message(Verbosity.WARN, f"\x1b[35;1mwarning:\x1b[0m {complaint}")
        return Session(caller, hub).run()
    # A pipe of Nix that is broken means the same: nobody is left to tell.
    except (Cancelled, BrokenPipeError):
        return EXIT_FAILED
    except RequestError as error:
        return _give_up(caller, f"cannot understand Nix: {error}")
    except FerryError as error:
        return _give_up(caller, str(error))
    except Exception as error:  # noqa: BLE001 - the outermost layer: a stack trace helps no user of Nix
        if hub.lasting:
            import traceback

            from hook.journal import log

            log(traceback.format_exc())
        return _give_up(caller, f"internal error in nix-ferry: {_where(error)}")


def _give_up(caller: Caller, text: str) -> int:
    front = Front(caller)
    with suppress(Cancelled, BrokenPipeError):
        front.log.error(text)
        if caller.state is State.QUESTION:
            front.decline_permanently()
    return EXIT_FAILED


def _where(error: Exception) -> str:
    """Type, text and place of an unexpected exception, on one line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno})" if trace else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
