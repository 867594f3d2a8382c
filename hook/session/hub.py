"""What one conversation leaves to the next: a broker has one hub for its life, a standalone hook for one build.

Everything in it has a bound, whatever machines say and however long the broker lives:

    what                                      bound
    builds and decisions not written yet      20,000 and 8 Mi characters each; written every few seconds (ledger.py)
    builds under way, lines of the queue      what hooks that are connected wait for
    totals, health, uploads by machine        4,096 machines each, as callers know them
    machines of each store, for `status`      64 stores
    text of an error that is remembered       2,000 characters (errors.py)
    idle connections                          a minute; what is known of a machine: 40,000 paths, while there is one
    shared connections by destination         ten minutes after the last session
    open databases                            16 of a kind, two seconds
    the preamble of the last conversation     1 MiB
    files: builds.jsonl, decisions.jsonl      8 MiB each, broker.log 2 MiB, notices/ 4,096 files
    files that the user makes                 disabled/: one for each machine that was disabled
Tested in broker/test_soak.py.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hook.front.front import Preamble
from hook.machines.health import Health
from hook.machines.places import LookAhead
from hook.machines.queue import SlotQueue
from hook.remote.pool import Pool
from hook.session.ledger import Ledger
from hook.store.databases import Databases
from hook.transfer.claims import Uploads

if TYPE_CHECKING:
    from hook.machines.backlog import Backlog
    from hook.remote.configurations import Configurations
    from hook.remote.sharing import Sharing


@dataclass(frozen=True, slots=True)
class Hub:
    """What outlives one conversation.  `lasting` if there will be others to profit from it."""

    pool: Pool
    health: Health
    queue: SlotQueue
    look_ahead: LookAhead
    uploads: Uploads
    databases: Databases
    preamble: Preamble | None
    ledger: Ledger
    sharing: "Sharing | None"
    backlog: "Backlog | None"
    lasting: bool
    configurations: "Configurations | None" = None
    """There where there is `sharing`."""


def new_hub(*, lasting: bool) -> Hub:
    """An empty hub."""
    sharing = configurations = backlog = None
    if lasting:
        from hook.machines.backlog import Backlog
        from hook.remote.configurations import Configurations
        from hook.remote.sharing import Sharing

        sharing, configurations, backlog = Sharing(), Configurations(), Backlog()
    queue = SlotQueue()
    return Hub(
        pool=Pool(),
        health=Health(time.monotonic),
        queue=queue,
        look_ahead=LookAhead(queue.freed),
        uploads=Uploads(shared=lasting),
        databases=Databases() if lasting else Databases(max_idle=0),
        preamble=Preamble() if lasting else None,
        ledger=Ledger(time.time),
        sharing=sharing,
        backlog=backlog,
        lasting=lasting,
        configurations=configurations,
    )
