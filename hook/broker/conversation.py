"""Serve one caller.  Whatever goes wrong in a session ends here, in a line for the user.

A build that was accepted then fails; before, Nix's own hook answers.
"""

import os
from contextlib import suppress

from hook.errors import EXIT_FAILED, EXIT_OK, Cancelled, FerryError, RequestError
from hook.front.caller import Caller, Word
from hook.front.front import Front
from hook.session.hub import Hub
from hook.session.session import Session


def serve(caller: Caller, hub: Hub) -> int:
    """Serve one conversation; returns the exit status of the hook."""
    try:
        if caller.verbosity is None:
            got = f"got '{caller.argument}'"
            _warn(caller, f"nix-ferry-hook is started by Nix with a verbosity as last argument, {got}")
        return Session(caller, hub).run()
    # A pipe of Nix that is broken means the same: nobody is left to tell.
    except (Cancelled, BrokenPipeError):
        return EXIT_FAILED
    except RequestError as error:
        return _give_up(caller, f"cannot understand Nix: {error}")
    except FerryError as error:
        return _give_up(caller, str(error) if caller.accepted else error.one_line)
    except Exception as error:  # noqa: BLE001 - the outermost layer: a stack trace helps no user of Nix
        if hub.lasting:
            import traceback

            from hook.broker.log import log

            log(traceback.format_exc())
        return _give_up(caller, f"internal error in nix-ferry: {_where(error)}")


def _give_up(caller: Caller, text: str) -> int:
    if caller.accepted:
        with suppress(Cancelled, BrokenPipeError):
            Front(caller).log.error(text)
        return EXIT_FAILED
    with suppress(Cancelled, BrokenPipeError):
        _warn(caller, f"{text}; the stock build hook answers instead")
    caller.successor = Word.STOCK
    return EXIT_OK


def _warn(caller: Caller, text: str) -> None:
    Front(caller).log.warning(text)


def _where(error: Exception) -> str:
    """Type, text and place of an unexpected exception, on one line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno})" if trace else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
