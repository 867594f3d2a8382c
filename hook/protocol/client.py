"""What a build needs of a machine's store, whichever protocol reaches it.

Implemented by WorkerClient and ServeClient; their docstrings say what each protocol adds.
Tested in protocol/test_worker.py and protocol/test_serve.py.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

from hook.protocol.building import BuildResult
from hook.protocol.pipeline import Answer
from hook.protocol.upload import Upload
from hook.values.derivation import Derivation
from hook.values.info import PathInfo
from hook.values.limits import Limits


class StoreClient(Protocol):
    """One handshaken connection.

    What returns an Answer only sends a request; the answer need not be read before the next request, but what is asked
    meanwhile must not be more than the connection holds: the other end does not read while it builds or sends.

    Every method, and every Answer, raises RemoteError when the other end refuses the operation, after which the
    connection is as usable as before, and MachineError when the connection is not.
    """

    log_on_stderr: bool
    """Whether the log of a build comes on the remote's standard error instead of in messages."""

    stops_substituting: bool
    """Whether the other end fetches nothing any more over a connection that has seen a build."""

    @property
    def version(self) -> tuple[int, int]:
        """The version of its protocol that both ends speak."""
        ...

    asks_ahead: bool
    """Whether the NAR of an output may be asked for before it is known to be there: it costs no more than this
    connection if it is not."""

    @property
    def trusted(self) -> bool | None:
        """Whether the other end trusts us; None if it does not say."""
        ...

    @property
    def noise(self) -> bytes:
        """What a login shell there printed before the protocol began; mostly nothing."""
        ...

    @property
    def idle(self) -> bool:
        """Whether everything that was asked is answered; otherwise the connection is of no use to others."""
        ...

    @property
    def breaks_batches(self) -> bool:
        """Whether a stock hook's upload fails when somebody else sends one of its paths at the same time."""
        ...

    @property
    def reports_outputs(self) -> bool:
        """Whether a result says which paths the outputs have."""
        ...

    def set_limits(self, limits: Limits, verbosity: int, substitute: bool) -> None:
        """Make the user's limits known there; `verbosity` and `substitute` are the user's settings."""
        ...

    def query_valid_paths(self, paths: Iterable[str], substitute: bool) -> set[str]:
        """Those of `paths` that are valid there; with `substitute` the other end first fetches what it can."""
        ...

    def add_temp_root(self, path: str) -> None:
        """Keep `path`, valid or not, from the garbage collector there until the connection ends."""
        ...

    def query_path_info(self, path: str) -> Answer[PathInfo | None]:
        """What is registered for `path`; None if it is not valid there."""
        ...

    def plan_upload(self, count: int, infos: Iterable[PathInfo]) -> Iterator[Upload]:
        """How to send `infos`, `count` of them, which are in an order with references first.

        Whoever takes an operation must send it.  None needs to wait for the answer to the one before.
        """
        ...

    def poll_upload(self) -> None:
        """Handle input that arrived in the middle of an upload."""
        ...

    def end_upload(self) -> None:
        """Wait until the other end has taken in everything that was sent."""
        ...

    def abandon_upload(self) -> None:
        """After a RemoteError: wait until the other end has done with everything that was sent."""
        ...

    def build_derivation(self, drv_path: str, derivation: Derivation, inputs: Iterable[str]) -> Answer[BuildResult]:
        """Build all outputs of `derivation` from `inputs`, the closure of what it needs, which must be valid there.

        The result has the realisations of outputs whose paths the derivation does not know, if `reports_outputs`.
        """
        ...

    def settle_log(self) -> Answer[object]:
        """To be called after a build was answered; when this is, everything that the build printed has arrived."""
        ...

    def nar_from_path(self, path: str) -> Answer[None]:
        """Ask for the NAR of `path`, which must be valid; when this is answered, its bytes are next on the channel."""
        ...
