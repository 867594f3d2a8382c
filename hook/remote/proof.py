"""Proof that a machine at the other end of a warm connection is still there: one round trip, bounded.

Nix does nothing else meanwhile, so it must not cost more than a new connection would.  Tested in test_promises.py, and
with links that die in tests/lab/test_dead_links.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from hook.errors import ConnectionLost, MachineError, RemoteError, Trouble
from hook.remote.watch import Deadline

if TYPE_CHECKING:
    from hook.remote.connection import Remote

ANSWER_S = 1.0
"""How long an answer may take from a machine that was connected to faster than that."""


@contextmanager
def soon(remote: "Remote") -> Iterator[None]:
    """MachineError if what is asked in the block is not answered soon."""
    bound_s = max(ANSWER_S, remote.connect_s)
    remote.stream.watch = Deadline(bound_s)
    try:
        yield
    except ConnectionLost as error:
        if error.trouble is not Trouble.TIMED_OUT:
            raise remote.explain(error) from None
        raise MachineError(f"no answer within {bound_s:.1f} s", Trouble.TIMED_OUT) from None
    finally:
        remote.stream.watch = None


def prove(remote: "Remote") -> None:
    """MachineError unless `remote` answers soon; an error of its own is an answer, too."""
    with soon(remote), suppress(RemoteError):
        remote.client.query_valid_paths([], substitute=False)
