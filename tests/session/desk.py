"""A conversation that looks for places, with a hub of its own, a clock that stands still and scripted machines."""

import os
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hook.config import Config
from hook.errors import Cancelled, MachineError
from hook.front.caller import Caller
from hook.front.log import Log
from hook.front.notices import Notices
from hook.front.request import Request
from hook.machines.backlog import Backlog
from hook.machines.builders import Machine, parse_machines
from hook.machines.health import Health
from hook.machines.places import LookAhead, Place
from hook.machines.queue import SlotQueue
from hook.machines.schedule import Answer, Decision, Host
from hook.machines.slots import SlotTable
from hook.remote.configurations import Configurations
from hook.remote.connection import Remote
from hook.remote.pool import Pool
from hook.remote.sharing import Sharing
from hook.session.contacts import Contacts
from hook.session.dispatch import Dispatcher
from hook.session.hub import Hub
from hook.session.ledger import Ledger
from hook.session.promises import Promises
from hook.session.prospects import Prospects
from hook.session.roster import Roster
from hook.session.services import Services
from hook.store.databases import Databases
from hook.store.local import LocalStore
from hook.store.location import find_store
from hook.transfer.claims import Uploads
from hook.values.limits import limits_of
from hook.values.settings import Settings
from tests.fakes import DAEMON_IN_URI

Value = TypeVar("Value")

SYSTEM = "x86_64-linux"
RELEASE = (2, 34)
REQUEST = Request(SYSTEM, "/nix/store/00000000000000000000000000000001-a.drv", frozenset(), am_willing=False)
TIMEOUT_S = 30
HOUR_S = 3600.0


class Clock:
    """A time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def good(name: str = "", jobs: int = 1, speed: int = 1) -> str:
    """A line of `builders` for a machine that works; the name makes it distinct."""
    return f"ssh-ng://localhost?remote-program={DAEMON_IN_URI}%20ok%20{name} - - {jobs} {speed}"


def bad(name: str = "", speed: int = 1) -> str:
    """One that cannot be reached."""
    return f"ssh-ng://localhost?remote-program=false%20{name} - - 1 {speed}"


class Desk:
    """A host on which conversations come and go; `caller` is the one of all of them."""

    def __init__(self, root: Path) -> None:
        (root / "current-load").mkdir()
        self.root = root
        self.clock = Clock()
        self.health = Health(self.clock, jitter=lambda: 0.5)
        self.pool = Pool()
        self.sharing = Sharing()
        self.configurations = Configurations()
        self.lasting = True
        self.max_jobs = 0
        self.release = RELEASE
        self.settings: dict[str, str] = {}
        self.config = Config()
        self.queue = SlotQueue()
        self.look_ahead = LookAhead(self.queue.freed)
        self.backlog = Backlog()
        self._hangup, self._end = os.pipe()
        self._log = os.open(root / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        environ = {"PATH": os.environ["PATH"]}
        self.caller = Caller(-1, self._log, -1, "3", environ, os.getpid(), self._hangup)
        self._open: list[Conversation] = []

    def conversation(self, *lines: str) -> "Conversation":
        """A new conversation with these machines."""
        machines, warnings = parse_machines("\n".join(lines), default_system=SYSTEM, release=RELEASE, read_file=str)
        assert warnings == []
        settings = Settings(self.settings)
        services = Services(
            caller=self.caller,
            config=self.config,
            settings=settings,
            left_out=False,
            host=Host(SYSTEM, frozenset(), frozenset(), self.max_jobs, self.release),
            machines=tuple(machines),
            limits=limits_of(settings),
            store=LocalStore(find_store(f"local?state={self.root}", {}), settings),
            slots=SlotTable(str(self.root)),
            private_dir=str(self.root / "nix-ferry"),
            notices=Notices(str(self.root / "nix-ferry"), os.getpid()),
        )
        uploads = Uploads(shared=True)
        hub = Hub(
            self.pool,
            self.health,
            self.queue,
            self.look_ahead,
            uploads,
            Databases(),
            None,
            Ledger(time.time),
            self.sharing,
            self.backlog if self.lasting else None,
            self.lasting,
            self.configurations,
        )
        self._open.append(Conversation(hub, services, Log(self._log, 3)))
        return self._open[-1]

    def held(self) -> int:
        """How many slots somebody has."""
        table = SlotTable(str(self.root))
        stems = {file.name.rpartition("-")[0] for file in (self.root / "current-load").iterdir()} - {"main"}
        busy = 0
        with table.selection():
            for stem in stems:
                slot, count = table.probe(stem, 1)
                busy += count
                if slot is not None:
                    slot.release()
        return busy

    def hang_up(self) -> None:
        if self._end >= 0:
            os.close(self._end)
            self._end = -1

    def close(self) -> None:
        for conversation in self._open:
            conversation.close()
        self.pool.close()
        self.hang_up()
        os.close(self._hangup)
        os.close(self._log)


class Conversation:
    """One that looks for places: its parts, and what they are asked about a build."""

    def __init__(self, hub: Hub, services: Services, log: Log) -> None:
        self.roster = Roster(hub, services)
        self.promises = Promises(hub, services, self.roster)
        self.contacts = Contacts(hub, services, log, self.roster)
        self.dispatcher = Dispatcher(hub, services, log, self.roster, self.promises)

    def close(self) -> None:
        self.contacts.close()
        self.dispatcher.close()

    def prospects(self, request: Request) -> Prospects:
        return Prospects(request, self.roster)

    def decide(self, request: Request, avoided: Collection[Machine] = (), **rest: Any) -> tuple[Decision, Place | None]:
        return self.dispatcher.decide(self.prospects(request), avoided, **rest)

    def wait(self, request: Request, *, ahead: bool = False) -> Place | None:
        return self.dispatcher.wait(self.prospects(request), ahead=ahead)

    def wait_for_slot(self, request: Request, place: Place) -> Place:
        return self.dispatcher.wait_for_slot(self.prospects(request), place)

    def remind(self, request: Request) -> None:
        self.dispatcher.remind(self.prospects(request))

    def why_nowhere(self, request: Request) -> str:
        return self.prospects(request).why_nowhere()

    def connect(
        self, place: Place, meanwhile: Callable[[], Value], *, needs_proof: bool = False
    ) -> tuple[Remote, Value]:
        """A connection, and what `meanwhile` returns, which is called while ssh authenticates."""
        with self.contacts.begin(place, needs_proof=needs_proof) as contact:
            value = meanwhile()
            return contact.finish(), value

    def give_back(self, remote: Remote) -> None:
        self.contacts.give_back(remote)

    def may_be_mended(self, place: Place, remote: Remote, error: MachineError) -> bool:
        return self.contacts.may_be_mended(place, remote, error)

    def lost(self, machine: Machine, error: MachineError) -> None:
        self.contacts.lost(machine, error)

    def spare(self, request: Request, machine: Machine, reason: str) -> None:
        self.roster.spare(request.drv_path, machine, reason)

    def may_accept_first(self, request: Request, place: Place) -> bool:
        return self.promises.may_accept_first(self.prospects(request), place)

    def waits_for(self, request: Request, decision: Decision) -> str | None:
        return self.promises.waits_for(self.prospects(request), decision)

    def promise(self, request: Request) -> None:
        self.promises.promise(self.prospects(request))

    def refusal(self, request: Request, decision: Decision) -> Answer:
        return self.promises.refusal(request, decision)


def place_of(conversation: Conversation, request: Request = REQUEST) -> Place:
    _, place = conversation.decide(request)
    assert place is not None
    return place


def connect(conversation: Conversation, place: Place | None = None) -> Remote:
    remote, value = conversation.connect(place or place_of(conversation), lambda: "value")
    assert value == "value"
    return remote


def fail_to_connect(conversation: Conversation) -> None:
    place = place_of(conversation)
    with pytest.raises(MachineError):
        connect(conversation, place)
    place.release()


def is_running(remote: Remote) -> bool:
    return not remote.stream.closed


def machine_of(conversation: Conversation) -> Machine:
    place = place_of(conversation)
    place.release()
    return place.machine


class Waiting:
    """A conversation that waits for a place in a thread of its own."""

    def __init__(self, conversation: Conversation, request: Request = REQUEST, *, ahead: bool = False) -> None:
        self.conversation = conversation
        self._request = request
        self._ahead = ahead
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _wait(self) -> Place | None:
        return self.conversation.wait(self._request, ahead=self._ahead)

    def _run(self) -> None:
        try:
            self._outcome: Place | Exception | None = self._wait()
        except Cancelled as error:
            self._outcome = error

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def outcome(self) -> Place | Exception | None:
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        return self._outcome


class Ready(Waiting):
    """One that has its inputs at `place` and waits for a slot."""

    def __init__(self, conversation: Conversation, place: Place) -> None:
        self.place = place
        super().__init__(conversation)

    def _wait(self) -> Place | None:
        return self.conversation.wait_for_slot(self._request, self.place)


def run(conversation: Conversation, request: Request = REQUEST) -> Place:
    """A build that runs."""
    place = place_of(conversation, request)
    assert conversation.wait_for_slot(request, place) is place
    return place


def ahead(conversation: Conversation) -> Place:
    """A place ahead of a slot."""
    place = conversation.wait(REQUEST, ahead=True)
    assert place is not None
    return place


def lines(desk: Desk) -> int:
    """How many builds wait."""
    # A copy: meanwhile others come and go.
    return sum(len(line) for line in list(desk.queue._lines.values()))


def wait_for_lines(desk: Desk, count: int) -> None:
    while lines(desk) != count:
        os.sched_yield()
