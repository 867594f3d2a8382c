"""What one conversation leaves to the next: a broker has one hub for its life, a standalone hook for one build."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hook.front import Preamble
from hook.health import Health
from hook.ledger import Ledger
from hook.places import LookAhead
from hook.pool import Pool
from hook.slotqueue import SlotQueue
from hook.store.databases import Databases
from hook.uploads import Uploads

if TYPE_CHECKING:
    from hook.sharing import Sharing


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
    lasting: bool


def new_hub(*, lasting: bool) -> Hub:
    """An empty hub."""
    sharing = None
    if lasting:
        from hook.sharing import Sharing

        sharing = Sharing()
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
        lasting=lasting,
    )
