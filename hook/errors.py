"""Every way a build can go wrong, and the exit code each one ends in.

The text of an error is one line for the user: what was being done, to which machine or store path, what came back.
What happens next (decline, try another machine, give up) follows from the class, and for a machine from the kind of its
trouble, never from the text.  Tested in session/test_session.py.
"""

import re
from enum import Enum

EXIT_OK = 0
EXIT_FAILED = 1
"""The only failure code the stock hook uses; Nix maps it to a plain failure on every release."""

COLOUR = re.compile(r"\x1b\[[0-9;]*m")

LONGEST_TEXT = 2000
"""Characters of an error that are kept: a machine may send megabytes, and what it did is remembered for days."""


def shortened(text: str, most: int = LONGEST_TEXT) -> str:
    """`text`, without its middle if it is longer than `most`: an error says what it is at its beginning or end."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} … {len(text) - 2 * half} characters left out … {text[-half:]}"


def printable(text: str) -> str:
    """`text` that others chose, with escapes for whatever could move a terminal's cursor or pass for another line.

    Nix colours what it says; that does no harm, and is left out.
    """
    text = COLOUR.sub("", text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


SOON_S = 5.0
LATER_S = 30.0


class Trouble(Enum):
    """A kind of failure, in words for the user.  `pause_s` is how long to leave the machine alone at first."""

    def __init__(self, words: str, pause_s: float) -> None:
        self.words = words
        self.pause_s = pause_s

    UNRESOLVED = "its name cannot be resolved", SOON_S
    UNREACHABLE = "no network leads there", SOON_S
    REFUSED = "it refused the connection", SOON_S
    TIMED_OUT = "it did not answer in time", SOON_S
    LOST = "the connection was lost", SOON_S
    OTHER = "it failed", SOON_S
    # Somebody has to do something about these.
    HOST_KEY = "its host key was not accepted", LATER_S
    AUTHENTICATION = "it refused the login", LATER_S
    NO_NIX = "it has no Nix", LATER_S
    PROTOCOL = "it does not speak Nix's protocol", LATER_S
    DISK_FULL = "its disk is full", LATER_S
    OWN_STORE = "it is the store that is built for", LATER_S


class FerryError(Exception):
    """Anything nix-ferry reports to its user instead of a stack trace."""

    @property
    def one_line(self) -> str:
        """The text on one line, shortened: what a remote daemon says may span several, and be of any length."""
        return " ".join(shortened(str(self)).split())


class RequestError(FerryError):
    """The parent's side of the pipe is malformed: truncated settings, an unknown request, a number that is none."""


class ConfigurationError(FerryError):
    """A setting or a line of `builders` that cannot be used; the rest of the configuration stays in force."""


class StockOnly(FerryError):
    """A request that is valid but not handled here; the stock hook gets it whole.  The text is the reason."""


class AloneOnly(FerryError):
    """A request that a broker must leave to a process of the hook's own.  The text is the reason."""


class MachineError(FerryError):
    """This machine cannot be used now; another one may.  Never raised for the failure of a build.

    The text is shortened: all who meet the same trouble are told of it.
    """

    trouble = Trouble.OTHER

    def __init__(self, text: str, trouble: Trouble | None = None, advice: str = "") -> None:
        super().__init__(shortened(f"{text} ({advice})" if advice else text))
        if trouble is not None:
            self.trouble = trouble
        self.advice = advice
        """What helps, which is part of the text, too."""


class ProtocolError(MachineError):
    """The remote end said something that the protocol does not allow."""

    trouble = Trouble.PROTOCOL


class ConnectionLost(MachineError):
    """The remote end went away, or kept silent for too long."""

    trouble = Trouble.LOST


class NotTrusted(MachineError):
    """This machine refuses what only users it trusts may do, and would again; another one may not."""


class InputsDoubted(MachineError):
    """A build failed as it does when inputs are not where they were known to be; to be asked over a new connection."""


class RemoteError(FerryError):
    """The remote daemon answered an operation with an error of its own; the connection stays usable."""


class BuildFailed(FerryError):
    """The derivation failed on the machine.  Reported once, in stock's words, and never retried."""


class StoreError(FerryError):
    """The local store refuses something: an invalid path, a wrong hash, a full disk."""


class NarError(FerryError):
    """Bytes that are no valid NAR, or a file that no NAR can hold."""


class Cancelled(FerryError):
    """Nix has given up what it asked for; nobody is left to tell."""
