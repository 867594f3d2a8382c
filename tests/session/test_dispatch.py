"""Finding a place: one slot held and no more, machines that failed and come back, connections that are used again.

Slots are real locks in a temporary directory, machines are local commands: a scripted daemon, or a program that just
ends.  The clock stands still unless a test moves it.
"""

import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hook.config import Config
from hook.errors import Cancelled, ConnectionLost, MachineError, NotTrusted, StockOnly, StoreError, Trouble
from hook.front.caller import Caller
from hook.front.log import Log
from hook.front.notices import Notices
from hook.front.request import Request
from hook.machines import queue as slotqueue
from hook.machines.backlog import Backlog
from hook.machines.builders import Machine, parse_machines
from hook.machines.disabled import Disabled
from hook.machines.health import FIRST_PAUSE_S, FRESH_S, LONGEST_PAUSE_S, PROVEN_S, Health
from hook.machines.places import LookAhead, Place
from hook.machines.queue import SlotQueue
from hook.machines.schedule import Answer, Host
from hook.machines.slots import MOST_SLOTS, SlotTable
from hook.protocol.worker import WorkerClient
from hook.remote import configurations, proof, sshfiles
from hook.remote import pool as pool_module
from hook.remote import sharing as sharing_module
from hook.remote import ssh as transport
from hook.remote.child import Command
from hook.remote.configurations import Configuration, Configurations
from hook.remote.connection import RENEW_BUILDS, Remote
from hook.remote.pool import Pool
from hook.remote.sharing import SESSIONS_EACH, Sharing
from hook.remote.sshfiles import SshFiles
from hook.remote.watch import Deadline
from hook.session import dispatch as dispatch_module
from hook.session.connections import Connections
from hook.session.dispatch import Dispatcher
from hook.session.hub import Hub
from hook.session.ledger import Ledger
from hook.session.services import Services
from hook.store.databases import Databases
from hook.store.local import LocalStore
from hook.store.location import find_store
from hook.transfer.claims import Uploads
from hook.values.limits import limits_of
from hook.values.settings import Settings
from tests.fakes import DAEMON, DAEMON_IN_URI
from tests.leaks import children

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
        self._open: list[Dispatcher] = []

    def dispatcher(self, *lines: str) -> Dispatcher:
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
        self._open.append(Dispatcher(hub, services, Log(self._log, 3)))
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
        for dispatcher in self._open:
            dispatcher.close()
        self.pool.close()
        self.hang_up()
        os.close(self._hangup)
        os.close(self._log)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(slotqueue, "LOOK_S", 0.005)
    # However slow this host is.
    monkeypatch.setattr(proof, "ANSWER_S", HOUR_S)
    monkeypatch.setattr(configurations, "PATIENCE_S", HOUR_S)
    monkeypatch.setattr(transport, "RELEASE_TIMEOUT_S", HOUR_S)
    desk = Desk(tmp_path)
    yield desk
    desk.close()


def place_of(dispatcher: Dispatcher, request: Request = REQUEST) -> Place:
    _, place = dispatcher.decide(request)
    assert place is not None
    return place


def connect(dispatcher: Dispatcher, place: Place | None = None) -> Remote:
    remote, value = dispatcher.connect(place or place_of(dispatcher), lambda: "value")
    assert value == "value"
    return remote


def fail_to_connect(dispatcher: Dispatcher) -> None:
    place = place_of(dispatcher)
    with pytest.raises(MachineError):
        connect(dispatcher, place)
    place.release()


def is_running(remote: Remote) -> bool:
    return not remote.stream.closed


# Slots


def test_only_the_slot_of_the_chosen_machine_is_kept(desk: Desk) -> None:
    """All able machines were probed; the others are somebody else's to use."""
    place = place_of(desk.dispatcher(good("a"), good("b", speed=2), good("c")))
    assert "ok%20b" in place.name
    assert desk.held() == 1
    place.release()
    place.release()
    assert desk.held() == 0


def test_whatever_goes_wrong_while_choosing_no_slot_is_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that lost a slot would have lost it for days."""
    dispatcher = desk.dispatcher(good("a"), good("b"))

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(dispatch_module, "decide", fail)
    with pytest.raises(ZeroDivisionError):
        dispatcher.decide(REQUEST)
    assert desk.held() == 0


def test_a_machine_whose_slots_cannot_be_locked_is_left_out(desk: Desk) -> None:
    """A directory is in the way of its lock file; the next machine is as good."""
    dispatcher = desk.dispatcher(good("a", speed=2), good("b"))
    place = place_of(dispatcher)
    place.release()
    (lock,) = (file for file in (desk.root / "current-load").iterdir() if "ok%20a" in file.name)
    lock.unlink()
    lock.mkdir()
    decision, place_b = dispatcher.decide(REQUEST)
    assert place_b is not None
    assert "ok%20b" in place_b.name
    assert "cannot lock" in decision.verdicts[0].reason
    lock.rmdir()


@pytest.mark.parametrize(
    ("max_jobs", "expected"), [(0, Answer.POSTPONE), (1, Answer.DECLINE)], ids=["elsewhere", "here"]
)
def test_hooks_that_choose_for_ever_do_not_hold_nix(desk: Desk, max_jobs: int, expected: Answer) -> None:
    """One that was stopped holds the main lock; Nix does nothing else until it has an answer."""
    desk.max_jobs = max_jobs
    dispatcher = desk.dispatcher(good())
    with SlotTable(str(desk.root)).selection():
        decision, place = dispatcher.decide(REQUEST, patience_s=0.01)
    assert place is None
    assert decision.answer is expected
    assert "another hook has held 'main-lock'" in decision.verdicts[0].reason


def test_choosing_ends_with_its_caller(desk: Desk) -> None:
    """Also after the accept, when there is all the time in the world."""
    dispatcher = desk.dispatcher(good())
    with SlotTable(str(desk.root)).selection():
        waiting = Waiting(dispatcher)
        desk.hang_up()
        assert isinstance(waiting.outcome(), Cancelled)


@pytest.mark.parametrize("files", [0, MOST_SLOTS], ids=["none", "many"])
def test_a_machine_with_very_many_jobs_does_not_keep_anybody(desk: Desk, files: int) -> None:
    """A builder can claim any number when it is added; whoever gives up is not kept either."""
    dispatcher = desk.dispatcher(good(jobs=4_294_967_295))
    stem = dispatcher.machines()[0].lock_stem
    for number in range(files):
        (desk.root / "current-load" / f"{stem}-{number}").touch()
    place_of(dispatcher).release()
    assert len(list((desk.root / "current-load").iterdir())) == max(files, 1) + 1
    desk.hang_up()
    if files:
        with pytest.raises(Cancelled):
            dispatcher.decide(REQUEST)
    assert desk.held() == 0


def test_the_end_of_a_conversation_gives_up_everything(desk: Desk) -> None:
    """However it ends: an exception between two steps must not cost a slot, or leave a build running."""
    dispatcher = desk.dispatcher(good(jobs=3))
    remote = connect(dispatcher)
    place_of(dispatcher)
    assert desk.held() == 1
    dispatcher.close()
    assert desk.held() == 0
    assert not is_running(remote)
    dispatcher.close()


# What is known of machines


def test_without_experience_a_machine_is_asked_first(desk: Desk) -> None:
    """Before the accept we can still decline."""
    dispatcher = desk.dispatcher(good())
    place = place_of(dispatcher)
    assert not dispatcher.promises.may_accept_first(REQUEST, place)
    connect(dispatcher, place)
    assert dispatcher.promises.may_accept_first(REQUEST, place)
    desk.clock.now += FRESH_S
    assert not dispatcher.promises.may_accept_first(REQUEST, place)


def test_a_machine_that_works_stands_in_for_one_that_is_not_known(desk: Desk) -> None:
    """Nix would do nothing else while we wait for one that may be dead."""
    place = place_of(desk.dispatcher(good("works")))
    connect(desk.dispatcher(good("works", jobs=2)), place)
    lines = [good("works"), bad("unknown", speed=9)]
    dispatcher = desk.dispatcher(*lines)
    unknown = place_of(dispatcher)
    assert "unknown" in unknown.name
    assert dispatcher.promises.may_accept_first(REQUEST, unknown)
    assert not dispatcher.promises.may_accept_first(replace(REQUEST, system="riscv64-linux"), unknown)
    mounted = place_of(desk.dispatcher(*lines, "mounted-ssh-ng://b1 - - 1 99"))
    assert not dispatcher.promises.may_accept_first(REQUEST, mounted)


def test_what_this_host_could_build_is_promised_on_fresh_proof_only(desk: Desk) -> None:
    """A second is what may be lost; whatever comes from the machine renews it."""
    desk.max_jobs = 1
    dispatcher = desk.dispatcher(good())
    place = place_of(dispatcher)
    remote = connect(dispatcher, place)
    assert dispatcher.promises.may_accept_first(REQUEST, place)
    desk.clock.now += PROVEN_S
    assert not dispatcher.promises.may_accept_first(REQUEST, place)
    remote.client.query_valid_paths([], substitute=False)
    assert dispatcher.promises.may_accept_first(REQUEST, place)
    other_system = replace(REQUEST, system="riscv64-linux")
    assert not dispatcher.promises.needs_proof(other_system)


def test_a_warm_connection_is_asked_before_it_is_proof(desk: Desk) -> None:
    """Once for all builds of a moment."""
    line = good(jobs=2)
    first = desk.dispatcher(line)
    remote = connect(first)
    first.give_back(remote)
    asked = remote.stream.bytes_out
    second = desk.dispatcher(line)
    place = place_of(second)
    assert second.connect(place, lambda: None, needs_proof=True)[0] is remote
    assert remote.stream.bytes_out == asked
    second.give_back(remote)
    desk.clock.now += PROVEN_S
    assert second.connect(place, lambda: None, needs_proof=True)[0] is remote
    assert remote.stream.bytes_out > asked
    assert second.promises.may_accept_first(REQUEST, place)


def test_a_machine_that_answers_over_a_warm_connection_works(desk: Desk) -> None:
    """One login that failed must not leave it to one build at a time for as long as there are warm ones."""
    line = good(jobs=2)
    first = desk.dispatcher(line)
    place = place_of(first)
    remote, _ = first.connect(place, lambda: None)
    first.give_back(remote)
    place.release()
    desk.health.failed(first.key(place.machine), "one login was refused")
    desk.clock.now += FIRST_PAUSE_S + 1
    second = desk.dispatcher(line)
    assert second.connect(place_of(second), lambda: None)[0] is remote
    assert desk.health.obstacle(second.key(place.machine)) is None


@pytest.mark.parametrize(("max_jobs", "expected"), [(1, False), (0, True)], ids=["local jobs", "none"])
def test_proof_of_another_machine_is_none_where_nix_could_build_it(desk: Desk, max_jobs: int, expected: bool) -> None:
    """That one may be busy for long: the build would wait for it, and never be built here."""
    desk.max_jobs = max_jobs
    works = place_of(desk.dispatcher(good("works")))
    connect(desk.dispatcher(good("works")), works)
    dispatcher = desk.dispatcher(good("works"), bad("unknown", speed=9))
    unknown = place_of(dispatcher)
    assert "unknown" in unknown.name
    assert dispatcher.promises.may_accept_first(REQUEST, unknown) is expected
    assert dispatcher.promises.may_accept_first(REQUEST, works)


def kept_warm(desk: Desk, behaviour: str) -> tuple[Dispatcher, Place]:
    """A conversation with a machine to which there is a connection that has been idle for a while."""
    desk.max_jobs = 1
    line = good(jobs=2).replace("%20ok%20", f"%20{behaviour}%20")
    first = desk.dispatcher(line)
    first.give_back(connect(first))
    desk.clock.now += PROVEN_S
    dispatcher = desk.dispatcher(line)
    return dispatcher, place_of(dispatcher)


def test_a_machine_that_does_not_answer_is_asked_once_and_not_connected_to_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new connection would only wait for the same silence, and Nix with it."""
    monkeypatch.setattr(proof, "ANSWER_S", 0.05)
    dispatcher, place = kept_warm(desk, "hang-query_valid_paths")
    monkeypatch.setattr(Connections, "open", None)
    with pytest.raises(MachineError, match="no answer within"):
        dispatcher.connect(place, lambda: None, needs_proof=True)
    place.release()
    decision, none = dispatcher.decide(REQUEST)
    assert none is None
    assert decision.answer is Answer.DECLINE


def test_a_connection_that_ended_is_replaced(desk: Desk) -> None:
    """The machine may have been restarted; stock would connect, too."""
    dispatcher, place = kept_warm(desk, "die-query_valid_paths")
    remote, _ = dispatcher.connect(place, lambda: None, needs_proof=True)
    assert is_running(remote)
    assert dispatcher.promises.may_accept_first(REQUEST, place)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_connection_that_is_kept_says_whom_its_machine_trusts(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    """It may have taken the place of one that said otherwise; as long as builds come, no other is made."""
    _, place = kept_warm(desk, "ok")
    place.release()
    desk.health = Health(desk.clock)
    dispatcher = desk.dispatcher(place.machine.text)
    place = place_of(dispatcher)
    desk.health.trusts(dispatcher.key(place.machine), trusted=not trusted, begun_at=0.0)
    monkeypatch.setattr(WorkerClient, "trusted", trusted)
    dispatcher.connect(place, lambda: None)
    assert (dispatcher.distrust(place.machine) is None) is trusted


def test_a_lone_hook_asks_always(desk: Desk) -> None:
    """Its experience is as old as itself."""
    desk.lasting = False
    dispatcher = desk.dispatcher(good())
    place = place_of(dispatcher)
    connect(dispatcher, place)
    assert not dispatcher.promises.may_accept_first(REQUEST, place)


def test_a_machine_that_fails_is_left_out_here_and_left_alone_elsewhere(desk: Desk) -> None:
    """One time-out for all, and this conversation does not come back to it."""
    dispatcher = desk.dispatcher(bad(speed=2), good())
    fail_to_connect(dispatcher)
    for other in (dispatcher, desk.dispatcher(bad(speed=2), good())):
        place = place_of(other)
        assert "ok" in place.name
        place.release()
    desk.clock.now += 2 * FIRST_PAUSE_S
    place = place_of(dispatcher)
    assert "ok" in place.name


def test_a_machine_that_one_caller_cannot_reach_is_not_held_against_it(desk: Desk) -> None:
    """Without an agent ssh has no key; another user of the same account has one."""
    fail_to_connect(desk.dispatcher(bad()))
    desk.caller = replace(desk.caller, environ={**desk.caller.environ, "SSH_AUTH_SOCK": "/run/agent"})
    place_of(desk.dispatcher(bad()))


def test_one_conversation_at_a_time_tries_a_machine_that_failed(desk: Desk) -> None:
    """From the choice on, not only from the connection on: two that chose at once would both wait."""
    fail_to_connect(desk.dispatcher(bad()))
    desk.clock.now += FIRST_PAUSE_S
    place = place_of(desk.dispatcher(bad()))
    decision, none = desk.dispatcher(bad()).decide(REQUEST)
    assert none is None
    assert "being tried again" in decision.verdicts[0].reason
    place.release()
    place_of(desk.dispatcher(bad()))


@pytest.mark.parametrize("error", [Cancelled("gone"), StockOnly("odd"), StoreError("bad"), KeyError("bug")])
def test_a_try_that_is_given_up_leaves_the_machine_to_others(desk: Desk, error: Exception) -> None:
    """It says nothing about the machine, which nobody could use again otherwise."""
    line = good()
    first = desk.dispatcher(line)
    place = place_of(first)
    desk.health.failed(first.key(place.machine), "timed out")
    place.release()
    desk.clock.now += FIRST_PAUSE_S
    place = place_of(first)

    def give_up() -> None:
        raise error

    with pytest.raises(type(error)):
        first.connect(place, give_up)
    first.close()
    remote = connect(desk.dispatcher(line))
    assert is_running(remote)


@pytest.mark.parametrize(("max_jobs", "expected"), [(0, Answer.POSTPONE), (1, Answer.DECLINE)])
def test_with_all_machines_down_nix_waits_only_if_it_cannot_build(desk: Desk, max_jobs: int, expected: Answer) -> None:
    """Built here at once if this host may; else asked again until a machine is back."""
    fail_to_connect(desk.dispatcher(bad()))
    desk.max_jobs = max_jobs
    decision, place = desk.dispatcher(bad()).decide(REQUEST)
    assert place is None
    assert decision.answer is expected


def test_a_machine_that_failed_in_this_conversation_is_no_reason_to_wait(desk: Desk) -> None:
    """Nix is told, as by the stock hook."""
    dispatcher = desk.dispatcher(bad())
    fail_to_connect(dispatcher)
    decision, _ = dispatcher.decide(REQUEST)
    assert decision.answer is Answer.DECLINE


def test_a_machine_without_slots_is_not_waited_for(desk: Desk) -> None:
    """It will never have one: Nix is to ask again, as by the stock hook, not to be promised a build."""
    dispatcher = desk.dispatcher(good(jobs=0))
    decision, _ = dispatcher.decide(REQUEST)
    assert decision.answer is Answer.POSTPONE
    assert dispatcher.promises.waits_for(REQUEST, decision) is None


def test_what_only_the_stock_hook_speaks_to_is_not_waited_for(desk: Desk) -> None:
    """When its slot is free the build would have nobody to do it."""
    line = "mounted-ssh-ng://b1"
    place_of(desk.dispatcher(line))
    dispatcher = desk.dispatcher(line)
    decision, place = dispatcher.decide(REQUEST)
    assert (decision.answer, place) == (Answer.POSTPONE, None)
    assert dispatcher.promises.waits_for(REQUEST, decision) is None


@pytest.mark.parametrize("lasting", [True, False])
def test_only_a_broker_waits_in_place_of_nix(desk: Desk, lasting: bool) -> None:
    """A lone hook that waited would keep Nix from asking another one."""
    desk.lasting = lasting
    place_of(desk.dispatcher(good("slow"), good("fast", speed=2)))
    place_of(desk.dispatcher(good("slow"), good("fast", speed=2)))
    dispatcher = desk.dispatcher(good("slow"), good("fast", speed=2))
    decision, place = dispatcher.decide(REQUEST)
    assert place is None
    likely = dispatcher.promises.waits_for(REQUEST, decision)
    assert likely is None if not lasting else likely is not None and "fast" in likely


def test_what_this_host_could_build_waits_only_for_a_slot_that_it_will_have_soon(desk: Desk) -> None:
    """What is promised can never be built here any more, however many slots are free here meanwhile."""
    desk.max_jobs = 6
    running = run(desk.dispatcher(good()))
    dispatcher = desk.dispatcher(good())
    decision, _ = dispatcher.decide(REQUEST)
    dispatcher.promises.ran(REQUEST, running, 0.4)
    assert dispatcher.promises.waits_for(REQUEST, decision) is None
    desk.health.worked(dispatcher.key(running.machine))
    assert dispatcher.promises.waits_for(REQUEST, decision) == running.name
    dispatcher.promises.promise(REQUEST)
    another = desk.dispatcher(good())
    another.promises.promise(REQUEST)
    assert desk.dispatcher(good()).promises.waits_for(REQUEST, decision) is None
    another.close()
    assert desk.dispatcher(good()).promises.waits_for(REQUEST, decision) == running.name
    desk.clock.now += PROVEN_S
    assert desk.dispatcher(good()).promises.waits_for(REQUEST, decision) is None


def test_slots_of_a_machine_that_may_be_dead_are_not_counted_on(desk: Desk) -> None:
    """However soon it would have one, and whatever other machine is known to live."""
    desk.max_jobs = 6
    lines = good("alive"), good("perhaps")
    alive, perhaps = run(desk.dispatcher(lines[0])), run(desk.dispatcher(lines[1]))
    dispatcher = desk.dispatcher(*lines)
    decision, _ = dispatcher.decide(REQUEST)
    dispatcher.promises.ran(REQUEST, perhaps, 0.1)
    desk.clock.now += PROVEN_S
    desk.health.worked(dispatcher.key(alive.machine))
    assert dispatcher.promises.waits_for(REQUEST, decision) is None
    desk.health.worked(dispatcher.key(perhaps.machine))
    assert dispatcher.promises.waits_for(REQUEST, decision) is not None


LONG = replace(REQUEST, drv_path="/nix/store/00000000000000000000000000000002-long.drv")


def test_a_slot_in_which_something_else_runs_is_not_expected_soon(desk: Desk) -> None:
    """However short its own kind is: it may be the only slot, and this host could have built it long before."""
    desk.max_jobs = 6
    running = run(desk.dispatcher(good()), LONG)
    dispatcher = desk.dispatcher(good())
    decision, _ = dispatcher.decide(REQUEST)
    dispatcher.promises.ran(REQUEST, running, 0.1)
    desk.health.worked(dispatcher.key(running.machine))
    assert dispatcher.promises.waits_for(REQUEST, decision) is None
    running.release()
    run(desk.dispatcher(good()))
    assert dispatcher.promises.waits_for(REQUEST, decision) == running.name


def test_a_slot_that_was_lent_is_as_busy_as_who_has_it(desk: Desk) -> None:
    desk.max_jobs, desk.config = 6, Config(look_ahead=2)
    uploading = place_of(desk.dispatcher(good()))
    uploading.lend()
    dispatcher = desk.dispatcher(good())
    decision, _ = dispatcher.decide(REQUEST)
    dispatcher.promises.ran(REQUEST, uploading, 0.1)
    desk.health.worked(dispatcher.key(uploading.machine))
    assert dispatcher.promises.waits_for(REQUEST, decision) == uploading.name
    place = ahead(desk.dispatcher(good()))
    assert desk._open[-1].wait_for_slot(LONG, place) is place
    assert dispatcher.promises.waits_for(REQUEST, decision) is None


def test_slots_of_a_machine_that_would_refuse_the_build_are_not_counted_on(desk: Desk) -> None:
    """However soon they are free; and other builds it takes."""
    desk.max_jobs = 6
    lines = good("picky", speed=2), good("other")
    picky, _ = run(desk.dispatcher(lines[0])), run(desk.dispatcher(lines[1]))
    dispatcher = desk.dispatcher(*lines)
    decision, _ = dispatcher.decide(REQUEST)
    dispatcher.promises.ran(REQUEST, picky, 0.1)
    desk.health.worked(dispatcher.key(picky.machine))
    assert dispatcher.promises.waits_for(REQUEST, decision) == picky.name
    dispatcher.spare(REQUEST, dispatcher.machines()[0].machine, "nobody has signed its input")
    assert dispatcher.promises.waits_for(REQUEST, decision) is None
    other = replace(REQUEST, drv_path=REQUEST.drv_path.replace("-a", "-a-2"))
    assert dispatcher.promises.waits_for(other, decision) == picky.name


def test_a_build_that_runs_holds_up_no_promise(desk: Desk) -> None:
    desk.max_jobs = 1
    running = run(desk.dispatcher(good()))
    waiting = Waiting(desk.dispatcher(good()))
    waiting.dispatcher.promises.promise(REQUEST)
    waiting.dispatcher.promises.ran(REQUEST, running, 0.9)
    desk.health.worked(waiting.dispatcher.key(running.machine))
    assert not desk.backlog.starts_soon([running.at], REQUEST.drv_path)
    running.release()
    place = waiting.outcome()
    assert isinstance(place, Place)
    assert waiting.dispatcher.wait_for_slot(REQUEST, place) is place
    assert desk.backlog.starts_soon([running.at], REQUEST.drv_path)


@pytest.mark.parametrize(
    ("max_jobs", "release", "answer"),
    [
        (1, (2, 8), Answer.DECLINE),
        (1, (2, 34), Answer.DECLINE),
        (1, (2, 35), Answer.POSTPONE),
        (0, (2, 34), Answer.POSTPONE),
    ],
)
def test_nix_is_told_what_makes_it_ask_again_soonest(
    desk: Desk, max_jobs: int, release: tuple[int, int], answer: Answer
) -> None:
    """When a build ends anywhere, or after five seconds: which of them depends on the release."""
    desk.max_jobs, desk.release = max_jobs, release
    run(desk.dispatcher(good()))
    dispatcher = desk.dispatcher(good())
    decision, _ = dispatcher.decide(REQUEST)
    assert decision.answer is Answer.POSTPONE
    assert dispatcher.promises.refusal(REQUEST, decision) is answer


# Waiting after the accept


# Waiting after the accept


class Waiting:
    """A conversation that waits for a place in a thread of its own."""

    def __init__(self, dispatcher: Dispatcher, request: Request = REQUEST, *, ahead: bool = False) -> None:
        self.dispatcher = dispatcher
        self._request = request
        self._ahead = ahead
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _wait(self) -> Place | None:
        return self.dispatcher.wait(self._request, ahead=self._ahead)

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


@pytest.mark.parametrize("willing", [False, True])
def test_a_slot_that_is_freed_goes_to_who_waits(desk: Desk, willing: bool) -> None:
    """Whether this host could have built it does not matter any more: it was promised."""
    desk.max_jobs = 8
    place = place_of(desk.dispatcher(good()))
    waiting = Waiting(desk.dispatcher(good()), replace(REQUEST, am_willing=willing))
    place.release()
    taken = waiting.outcome()
    assert isinstance(taken, Place)
    assert taken.name == place.name


def test_a_slot_that_the_first_in_line_has_no_use_for_goes_to_the_next(desk: Desk) -> None:
    """A machine would refuse the one and takes the other."""
    lines = good("picky"), good("other")
    picky, other = (run(desk.dispatcher(line)) for line in lines)
    first = desk.dispatcher(*lines)
    first.spare(REQUEST, first.machines()[0].machine, "nobody has signed its input")
    refused = Waiting(first)
    wait_for_lines(desk, 1)
    taken = Waiting(desk.dispatcher(*lines))
    wait_for_lines(desk, 2)
    picky.release()
    place = taken.outcome()
    assert isinstance(place, Place)
    assert place.name == picky.name
    other.release()
    last = refused.outcome()
    assert isinstance(last, Place)
    assert last.name == other.name


def test_a_build_waits_for_no_machine_that_would_refuse_it(desk: Desk) -> None:
    """Not even if it is the only one."""
    dispatcher = desk.dispatcher(good())
    machine = machine_of(dispatcher)
    dispatcher.spare(REQUEST, machine, "nobody has signed its input")
    assert Waiting(dispatcher).outcome() is None
    assert "nobody has signed its input" in dispatcher.why_nowhere(REQUEST)


def test_waiting_ends_when_nix_gives_up(desk: Desk) -> None:
    """And holds nothing."""
    place_of(desk.dispatcher(good()))
    waiting = Waiting(desk.dispatcher(good()))
    desk.hang_up()
    assert isinstance(waiting.outcome(), Cancelled)
    assert desk.held() == 1


def test_a_machine_that_is_down_for_a_moment_is_waited_for(desk: Desk) -> None:
    """The build was promised, and the machine may be back in a few seconds."""
    line = good()
    dispatcher = desk.dispatcher(line)
    place = place_of(dispatcher)
    waiting = Waiting(desk.dispatcher(line))
    desk.health.failed(dispatcher.key(place.machine), "refused")
    place.release()
    desk.clock.now += FIRST_PAUSE_S
    assert isinstance(waiting.outcome(), Place)


def test_a_machine_that_fails_again_is_not_waited_for_any_longer(desk: Desk) -> None:
    """Whoever tried it: two hundred builds must not each have a try, with longer and longer pauses between."""
    line = good()
    dispatcher = desk.dispatcher(line)
    place = place_of(dispatcher)
    key = dispatcher.key(place.machine)
    waiting = [Waiting(desk.dispatcher(line)) for _ in range(5)]
    wait_for_lines(desk, len(waiting))
    desk.health.failed(key, "timed out")
    desk.clock.now += FIRST_PAUSE_S
    desk.health.failed(key, "timed out")
    assert [each.outcome() for each in waiting] == [None] * len(waiting)
    assert "timed out" in waiting[-1].dispatcher.why_nowhere(REQUEST)


class Watched(Health):
    """One that knows how often somebody who waits has looked at it."""

    looks = 0

    def failures(self, machine: Hashable) -> int:
        self.looks += 1
        return super().failures(machine)

    def wait_for_look(self, waiting: Waiting) -> None:
        """Return when all that was known before has been looked at, or nobody waits any more."""
        # The first look may have begun already.
        before = self.looks
        while self.looks < before + 2 and waiting.is_alive():
            os.sched_yield()


def test_a_machine_that_has_worked_meanwhile_is_waited_for(desk: Desk) -> None:
    """A build may wait for hours, and a machine turn away a connection now and then; only what lasts is a reason."""
    desk.health = health = Watched(desk.clock, jitter=lambda: 0.5)
    line = good()
    dispatcher = desk.dispatcher(line)
    place = place_of(dispatcher)
    waiting = Waiting(desk.dispatcher(line))
    for _ in range(3):
        health.failed(dispatcher.key(place.machine), "its sshd turns connections away")
        desk.clock.now += FIRST_PAUSE_S
        health.worked(dispatcher.key(place.machine))
        health.wait_for_look(waiting)
    place.release()
    assert isinstance(waiting.outcome(), Place)


def test_a_machine_whose_disk_is_full_again_is_not_waited_for_any_longer(desk: Desk) -> None:
    """A hundred builds would each have a try, and a pause between; there is one to connect to it, but none to build."""
    line = good()
    dispatcher = desk.dispatcher(line)
    place = place_of(dispatcher)
    waiting = Waiting(desk.dispatcher(line))
    wait_for_lines(desk, 1)
    for _ in range(2):
        dispatcher.lost(place.machine, MachineError("full", Trouble.DISK_FULL))
        desk.clock.now += LONGEST_PAUSE_S
        desk.health.worked(dispatcher.key(place.machine))
    assert waiting.outcome() is None


def test_of_a_machine_that_was_down_before_only_what_follows_counts(desk: Desk) -> None:
    """It is given two more tries; after a success it is a machine like any other."""
    desk.health = health = Watched(desk.clock, jitter=lambda: 0.5)
    line = good()
    dispatcher = desk.dispatcher(line)
    place = place_of(dispatcher)
    key = dispatcher.key(place.machine)

    def fail() -> None:
        health.failed(key, "timed out")
        desk.clock.now += LONGEST_PAUSE_S * 2

    for _ in range(3):
        fail()
    waiting = Waiting(desk.dispatcher(line))
    health.wait_for_look(waiting)
    fail()
    health.wait_for_look(waiting)
    health.worked(key)
    health.wait_for_look(waiting)
    fail()
    health.wait_for_look(waiting)
    assert waiting.is_alive()
    fail()
    assert waiting.outcome() is None


def test_with_every_machine_left_out_there_is_nothing_to_wait_for(desk: Desk) -> None:
    """The build fails with the reason, instead of never."""
    dispatcher = desk.dispatcher(bad())
    fail_to_connect(dispatcher)
    assert dispatcher.wait(REQUEST) is None


def test_a_machine_for_the_stock_hook_is_no_place_after_the_accept(desk: Desk) -> None:
    """The stock hook would have had to answer in our place."""
    dispatcher = desk.dispatcher("mounted-ssh-ng://b1 - - 1 2", good())
    with pytest.raises(StockOnly):
        connect(dispatcher)
    place = dispatcher.wait(REQUEST)
    assert place is not None
    assert "ok" in place.name


# Machines that the user takes out of use


def disable(desk: Desk, place: Place) -> None:
    assert Disabled(str(desk.root / "nix-ferry")).add(place.machine)


def enable(desk: Desk, place: Place) -> None:
    assert Disabled(str(desk.root / "nix-ferry")).remove(place.machine)


def test_a_disabled_machine_gets_no_build_until_it_is_enabled(desk: Desk) -> None:
    """While no other can do it, and neither can this host, Nix is to ask again, and its user is told why."""
    dispatcher = desk.dispatcher(good())
    place = place_of(dispatcher)
    place.release()
    disable(desk, place)
    decision, none = dispatcher.decide(REQUEST)
    assert none is None
    assert decision.answer is Answer.POSTPONE
    assert decision.verdicts[0].reason.startswith("disabled by the user since 2")
    assert dispatcher.promises.waits_for(REQUEST, decision) is None
    assert desk.held() == 0
    dispatcher.remind(REQUEST)
    dispatcher.remind(REQUEST)
    (line,) = (desk.root / "log").read_text().splitlines()
    assert "waiting for a machine: 'ssh-ng://localhost" in line
    assert "': disabled by the user since" in line
    enable(desk, place)
    assert place_of(dispatcher).name == place.name


def test_a_disabled_machine_is_no_hindrance_to_others(desk: Desk) -> None:
    """Nor to this host."""
    place = place_of(desk.dispatcher(good("a", speed=2), good("b")))
    place.release()
    disable(desk, place)
    assert "ok%20b" in place_of(desk.dispatcher(good("a", speed=2), good("b"))).name
    desk.max_jobs = 1
    assert desk.dispatcher(good("a", speed=2)).decide(REQUEST)[0].answer is Answer.DECLINE


def test_a_promised_build_waits_until_its_only_machine_is_enabled(desk: Desk) -> None:
    running = run(desk.dispatcher(good()))
    disable(desk, running)
    waiting = Waiting(desk.dispatcher(good()))
    wait_for_lines(desk, 1)
    running.release()
    enable(desk, running)
    assert isinstance(waiting.outcome(), Place)


def test_builds_that_only_wait_at_a_disabled_machine_leave_it(desk: Desk) -> None:
    """All of the line, though only its first one looks; what runs there goes on."""
    desk.config = Config(look_ahead=2)
    running = run(desk.dispatcher(good("a", speed=2)))
    both = good("a", speed=2), good("b", jobs=2)
    blocked = [run(desk.dispatcher(good("b", jobs=2))) for _ in range(2)]
    places = [ahead(desk.dispatcher(*both)) for _ in range(2)]
    assert [place.name for place in places] == [running.name] * 2
    ready = [Ready(dispatcher, place) for dispatcher, place in zip(desk._open[-2:], places, strict=True)]
    wait_for_lines(desk, 2)
    disable(desk, running)
    end = time.monotonic() + TIMEOUT_S
    while desk.look_ahead.count(running.at):
        assert time.monotonic() < end
        os.sched_yield()
    for place in blocked:
        place.release()
    moved = [each.outcome() for each in ready]
    assert [place.name for place in moved if isinstance(place, Place)] == [blocked[0].name] * 2


def test_a_build_whose_inputs_still_travel_does_not_start_on_a_disabled_machine(desk: Desk) -> None:
    """It has a slot there, which it gives up."""
    dispatcher = desk.dispatcher(good("a", speed=2), good("b"))
    place = place_of(dispatcher)
    place.lend()
    disable(desk, place)
    other = dispatcher.wait_for_slot(REQUEST, place)
    assert "ok%20b" in other.name
    assert desk.held() == 1


def test_who_has_left_a_disabled_machine_does_not_try_there_again(desk: Desk) -> None:
    """A slot that a build had in a place which it had given up already would be nobody's to release."""
    first = desk.dispatcher(good(jobs=2))
    first.give_back(connect(first))
    dispatcher = desk.dispatcher(good(jobs=2))
    place = place_of(dispatcher)
    remote = connect(dispatcher, place)
    place.lend()
    disable(desk, place)
    dispatcher.leave_out(place.machine, "has failed")
    with pytest.raises(MachineError, match="disabled by the user") as error:
        dispatcher.wait_for_slot(REQUEST, place)
    assert not dispatcher.may_be_mended(place, remote, error.value)


# Ahead of a slot


class Ready(Waiting):
    """One that has its inputs at `place` and waits for a slot."""

    def __init__(self, dispatcher: Dispatcher, place: Place) -> None:
        self.place = place
        super().__init__(dispatcher)

    def _wait(self) -> Place | None:
        return self.dispatcher.wait_for_slot(self._request, self.place)


def run(dispatcher: Dispatcher, request: Request = REQUEST) -> Place:
    """A build that runs."""
    place = place_of(dispatcher, request)
    assert dispatcher.wait_for_slot(request, place) is place
    return place


def ahead(dispatcher: Dispatcher) -> Place:
    """A place ahead of a slot."""
    place = dispatcher.wait(REQUEST, ahead=True)
    assert place is not None
    return place


def lines(desk: Desk) -> int:
    """How many builds wait."""
    # A copy: meanwhile others come and go.
    return sum(len(line) for line in list(desk.queue._lines.values()))


def wait_for_lines(desk: Desk, count: int) -> None:
    while lines(desk) != count:
        os.sched_yield()


def test_a_build_that_waits_has_a_machine_already(desk: Desk) -> None:
    """Where its inputs can go meanwhile: it takes no slot, and when one is free it runs there."""
    running = run(desk.dispatcher(good()))
    dispatcher = desk.dispatcher(good())
    place = ahead(dispatcher)
    assert desk.held() == 1
    assert is_running(connect(dispatcher, place))
    ready = Ready(dispatcher, place)
    wait_for_lines(desk, 1)
    assert desk.held() == 1
    running.release()
    assert ready.outcome() is place
    assert desk.held() == 1
    place.release()
    assert desk.held() == 0


def test_the_machine_is_chosen_by_the_rule_for_slots(desk: Desk) -> None:
    """Load by speed, and the faster one of equals; builds that are ahead of a slot are load, too."""
    desk.config = Config(look_ahead=9)
    machines = good("slow"), good("fast", speed=2)
    for _ in range(2):
        run(desk.dispatcher(*machines))
    names = [ahead(desk.dispatcher(*machines)).name for _ in range(4)]
    assert ["fast" in name for name in names] == [True, True, False, True]


@pytest.mark.parametrize(("configured", "limit"), [(None, 2), (3, 3), (1, 1)])
def test_only_so_many_builds_are_ahead(desk: Desk, configured: int | None, limit: int) -> None:
    """The others wait in line, without connections; the next one takes the place of one that runs."""
    desk.config = Config(look_ahead=configured)
    running = [run(desk.dispatcher(good(jobs=2))) for _ in range(2)]
    places = [ahead(desk.dispatcher(good(jobs=2))) for _ in range(limit)]
    waiting = Waiting(desk.dispatcher(good(jobs=2)), ahead=True)
    wait_for_lines(desk, 1)
    assert desk.look_ahead.count(places[0].at) == limit
    ready = Ready(desk._open[2], places[0])
    wait_for_lines(desk, 2)
    running[0].release()
    assert ready.outcome() is places[0]
    assert isinstance(waiting.outcome(), Place)
    assert desk.look_ahead.count(places[0].at) == limit


def test_builds_that_have_a_slot_and_do_not_run_yet_are_ahead(desk: Desk) -> None:
    """They are on the link, and the next ones would only slow them down."""
    starting = place_of(desk.dispatcher(good()))
    waiting = Waiting(desk.dispatcher(good()), ahead=True)
    wait_for_lines(desk, 1)
    assert desk._open[0].wait_for_slot(REQUEST, starting) is starting
    assert isinstance(waiting.outcome(), Place)


@pytest.mark.parametrize("why", ["configured", "a lone hook"])
def test_without_look_ahead_a_build_waits_for_its_slot(desk: Desk, why: str) -> None:
    """Lone hooks do not see each other: each of them would be the first one ahead."""
    if why == "configured":
        desk.config = Config(look_ahead=0)
    else:
        desk.lasting = False
    running = run(desk.dispatcher(good()))
    waiting = Waiting(desk.dispatcher(good()), ahead=True)
    wait_for_lines(desk, 1)
    assert desk.look_ahead.count(running.at) == 0
    running.release()
    assert isinstance(waiting.outcome(), Place)
    assert desk.held() == 1


def test_a_slot_is_lent_while_inputs_travel(desk: Desk) -> None:
    """To a build that has its own there; the lender has the next one."""
    desk.config = Config(look_ahead=2)
    uploading = place_of(desk.dispatcher(good()))
    place = ahead(desk.dispatcher(good()))
    ready = Ready(desk._open[1], place)
    wait_for_lines(desk, 1)
    uploading.lend()
    assert ready.outcome() is place
    assert desk.held() == 1
    late = Ready(desk._open[0], uploading)
    place.release()
    assert late.outcome() is uploading


def test_a_slot_is_kept_for_who_is_ready(desk: Desk) -> None:
    """A build that arrives in this moment has yet to bring its inputs."""
    running = run(desk.dispatcher(good()))
    place = ahead(desk.dispatcher(good()))
    with desk.queue.first("any", desk.caller, place.at):
        running.release()
        decision, none = desk.dispatcher(good()).decide(REQUEST)
        assert none is None
        assert decision.answer is Answer.POSTPONE
    assert desk.held() == 0


def test_whichever_machine_is_free_first(desk: Desk) -> None:
    """The inputs are on one; the slot comes on the other."""
    machines = good("a"), good("b")
    running = [run(desk.dispatcher(*machines)) for _ in range(2)]
    dispatcher = desk.dispatcher(*machines)
    place = ahead(dispatcher)
    (other,) = (each for each in running if each.name != place.name)
    ready = Ready(dispatcher, place)
    wait_for_lines(desk, 1)
    other.release()
    moved = ready.outcome()
    assert isinstance(moved, Place)
    assert moved.name == other.name
    assert moved.start()


def test_a_slot_elsewhere_is_for_builds_that_have_their_inputs_nowhere(desk: Desk) -> None:
    """Else one upload would be for nothing, and another build would still wait."""
    desk.config = Config(look_ahead=1)
    machines = good("a"), good("b")
    running = [run(desk.dispatcher(*machines)) for _ in range(2)]
    places = [ahead(desk.dispatcher(*machines)) for _ in range(2)]
    ready = Ready(desk._open[2], places[0])
    waiting = Waiting(desk.dispatcher(*machines))
    wait_for_lines(desk, 2)
    (other,) = (each for each in running if each.name != places[0].name)
    other.release()
    taken = waiting.outcome()
    assert isinstance(taken, Place)
    assert taken.name == other.name
    desk.hang_up()
    assert isinstance(ready.outcome(), Cancelled)


def test_a_build_ahead_may_be_the_one_that_tries_a_machine_again(desk: Desk) -> None:
    """One at a time, as with a slot; and what it finds holds for all."""
    running = run(desk.dispatcher(good(jobs=1)))
    first = desk.dispatcher(good(jobs=1))
    desk.health.failed(first.key(running.machine), "timed out")
    desk.clock.now += FIRST_PAUSE_S
    desk.config = Config(look_ahead=5)
    place = ahead(first)
    decision, none = desk.dispatcher(good(jobs=1)).decide(REQUEST, ahead=True)
    assert none is None
    assert "being tried again" in decision.verdicts[0].reason
    connect(first, place)
    ahead(desk.dispatcher(good(jobs=1)))


def test_a_build_that_is_ready_waits_for_a_machine_that_others_find_down(desk: Desk) -> None:
    """It is connected to it."""
    running = run(desk.dispatcher(good()))
    dispatcher = desk.dispatcher(good())
    place = ahead(dispatcher)
    desk.health.failed(dispatcher.key(place.machine), "its sshd turns connections away")
    ready = Ready(dispatcher, place)
    running.release()
    assert ready.outcome() is place


def test_the_end_of_a_build_ahead_makes_room(desk: Desk) -> None:
    """Nix has given it up while it waited."""
    run(desk.dispatcher(good()))
    dispatcher = desk.dispatcher(good())
    place = ahead(dispatcher)
    ready = Ready(dispatcher, place)
    wait_for_lines(desk, 1)
    desk.hang_up()
    assert isinstance(ready.outcome(), Cancelled)
    dispatcher.close()
    assert desk.look_ahead.count(place.at) == 0
    assert desk.held() == 1


# Losses


def machine_of(dispatcher: Dispatcher) -> Machine:
    place = place_of(dispatcher)
    place.release()
    return place.machine


def test_a_machine_whose_disk_is_full_is_left_out_here_and_left_alone_elsewhere(desk: Desk) -> None:
    """Connecting to it works; only a build would find out, again and again."""
    dispatcher = desk.dispatcher(good("a", speed=2), good("b"))
    dispatcher.lost(machine_of(dispatcher), MachineError("full", Trouble.DISK_FULL))
    for other in (dispatcher, desk.dispatcher(good("a", speed=2), good("b"))):
        place = place_of(other)
        assert "ok%20b" in place.name
        place.release()
    desk.clock.now += Trouble.DISK_FULL.pause_s
    assert "ok%20a" in place_of(desk.dispatcher(good("a", speed=2), good("b"))).name


def test_a_machine_is_lost_once_and_tried_again_and_lost_twice_and_left(desk: Desk) -> None:
    """The other one first, if there is one."""
    dispatcher = desk.dispatcher(good("a", speed=2), good("b"))
    machine = machine_of(dispatcher)
    dispatcher.lost(machine, ConnectionLost("reset"))
    assert not desk.health.is_fresh(dispatcher.key(machine))
    other = dispatcher.wait(REQUEST)
    assert other is not None
    assert "ok%20b" in other.name
    again = dispatcher.wait(REQUEST)
    assert again is not None
    assert again.machine == machine
    again.release()
    dispatcher.lost(machine, ConnectionLost("reset"))
    other.release()
    last = dispatcher.wait(REQUEST)
    assert last is not None
    assert last.machine == other.machine


def test_distrust_does_not_pass(desk: Desk) -> None:
    """A second try would end in the same words."""
    dispatcher = desk.dispatcher(good())
    dispatcher.lost(machine_of(dispatcher), NotTrusted("no"))
    assert dispatcher.wait(REQUEST) is None


@pytest.mark.parametrize(("error", "kept"), [(ConnectionLost("reset"), False), (MachineError("it refused"), True)])
def test_a_connection_that_breaks_casts_doubt_on_the_idle_ones(desk: Desk, error: MachineError, kept: bool) -> None:
    """They would be the next to break, each costing a build one of its tries."""
    dispatcher = desk.dispatcher(good(jobs=2))
    place = place_of(dispatcher)
    idle, used = connect(dispatcher, place), connect(dispatcher)
    dispatcher.give_back(idle)
    dispatcher.lost(place.machine, error)
    assert is_running(idle) is kept
    assert is_running(used)


def test_all_that_leads_to_a_machine_whose_disk_is_full_is_let_go(desk: Desk) -> None:
    """At once, whatever the line is called for which it was made: a new connection would find what they keep there."""
    first = desk.dispatcher(good(jobs=2))
    idle = connect(first)
    first.give_back(idle)
    second = desk.dispatcher(good(jobs=9).replace("?", "?system-features=kvm&"))
    place = place_of(second)
    used = connect(second, place)
    assert used is idle
    second.give_back(used)
    assert place.name != used.name
    assert second.may_be_mended(place, used, MachineError("full", Trouble.DISK_FULL))
    assert not is_running(idle)


# Connections


def test_a_connection_is_used_again(desk: Desk) -> None:
    """By the next conversation; it then speaks for that one."""
    first = desk.dispatcher(good())
    place = place_of(first)
    remote = connect(first, place)
    first.give_back(remote)
    place.release()
    first.close()
    assert is_running(remote)
    second = desk.dispatcher(good())
    assert connect(second) is remote
    assert remote.stream.hangup_fd == desk.caller.hangup_fd


def test_a_lone_hook_keeps_no_connection(desk: Desk) -> None:
    """Nobody comes after it."""
    desk.lasting = False
    dispatcher = desk.dispatcher(good())
    remote = connect(dispatcher)
    dispatcher.give_back(remote)
    assert not is_running(remote)


def test_a_connection_that_fetches_nothing_any_more_is_not_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock has a connection for each build, so its machines always fetch what they can."""
    monkeypatch.setattr(WorkerClient, "stops_substituting", True)
    first = desk.dispatcher(good(jobs=2))
    other = connect(first)
    first.give_back(other)
    assert is_running(other)
    desk.settings["builders-use-substitutes"] = "true"
    second = desk.dispatcher(good(jobs=2))
    remote = connect(second)
    assert remote is not other
    second.give_back(remote)
    assert not is_running(remote)


def test_a_warm_connection_is_not_lost_when_the_build_is_refused(desk: Desk) -> None:
    """The derivation cannot be read: no fault of the machine's."""
    first = desk.dispatcher(good(jobs=2))
    remote = connect(first)
    first.give_back(remote)
    second = desk.dispatcher(good(jobs=2))

    def refuse() -> None:
        raise StoreError("unreadable")

    with pytest.raises(StoreError):
        second.connect(place_of(second), refuse)
    assert connect(desk.dispatcher(good(jobs=3))) is remote


def test_an_error_of_ours_while_ssh_connects_ends_ssh(desk: Desk) -> None:
    """Nothing of it may stay behind."""
    dispatcher = desk.dispatcher(good())
    before = children()
    started: set[str] = set()

    def refuse() -> None:
        started.update(children() - before)
        raise StoreError("unreadable")

    with pytest.raises(StoreError):
        dispatcher.connect(place_of(dispatcher), refuse)
    assert len(started) == 1
    assert not started & children()


SSH = """#!/bin/sh
case " $* " in
*" -V "*) echo "OpenSSH_9.2p1" >&2 ;;
*" -G "*) echo "controlmaster auto"; echo "hostname $WHERE"; echo "sendenv SENT_*"
  echo "proxycommand ${{PROXY-none}}" ;;
*) exec {daemon} ok ;;
esac
"""
"""One that shares by itself, asks a variable where to go, and sends some."""


@pytest.fixture
def ssh(tmp_path: Path, desk: Desk) -> None:
    """An `ssh` in PATH that leads to a scripted daemon."""
    program = tmp_path / "bin/ssh"
    program.parent.mkdir()
    program.write_text(SSH.format(daemon=" ".join(DAEMON)))
    program.chmod(0o755)
    desk.caller = replace(desk.caller, environ={**desk.caller.environ, "PATH": f"{program.parent}:/usr/bin:/bin"})


NO_SHARED_SESSION = """#!/bin/sh
case " $* " in
*" -V "*) ;;
*" -G "*) echo "controlmaster false" ;;
*ControlPath*) echo "muxclient: master hello exchange failed" >&2; exit 255 ;;
*) exec {daemon} ok ;;
esac
"""


@pytest.mark.usefixtures("ssh")
def test_where_sharing_fails_a_connection_of_its_own_does(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control connection may end at the very moment in which it is wanted."""
    monkeypatch.setattr(sharing_module, "LONGEST_PATH", 200)
    (tmp_path / "bin/ssh").write_text(NO_SHARED_SESSION.format(daemon=" ".join(DAEMON)))
    remote = connect(desk.dispatcher("ssh-ng://b1"))
    assert is_running(remote)
    assert list((tmp_path / "nix-ferry/ssh").iterdir()) == []


@pytest.mark.usefixtures("ssh")
def test_the_connect_timeout_is_configured(desk: Desk) -> None:
    """Five seconds are too short over a satellite."""
    desk.config = Config(connect_timeout_s=30)
    assert "-oConnectTimeout=30" in connect(desk.dispatcher("ssh-ng://b1")).route.argv


@pytest.mark.parametrize(
    ("line", "name", "same"),
    [
        ("ssh-ng://b1 - - 9", "SSH_AUTH_SOCK", False),
        ("ssh-ng://b1 - - 9", "WHERE", False),
        ("ssh-ng://b1 - - 9", "SENT_1", False),
        ("ssh-ng://b1 - - 9", "PWD", True),
        ("ssh-ng://b1 - - 9", "TERM", True),
        (good(jobs=9), "PWD", True),
        (good(jobs=9), "TERM", False),
    ],
    ids=["agent", "configuration", "sent", "directory", "terminal", "local directory", "local command"],
)
@pytest.mark.usefixtures("ssh")
def test_callers_share_a_connection_only_if_ssh_would_make_the_same_one(
    desk: Desk, line: str, name: str, same: bool
) -> None:
    """Whatever else is in their environments; a local command may look at any variable."""
    first = desk.dispatcher(line)
    remote = connect(first)
    first.give_back(remote)
    desk.caller = replace(desk.caller, environ={**desk.caller.environ, name: "other"})
    second = desk.dispatcher(line)
    other = connect(second)
    assert (other is remote) is same
    # Each finds its own again.
    second.give_back(other)
    assert connect(desk.dispatcher(line)) is other


@pytest.mark.usefixtures("ssh")
def test_a_program_on_the_way_may_look_at_any_variable(desk: Desk) -> None:
    """A cloud's ProxyCommand goes where its profile says; ssh itself knows nothing of that."""
    desk.caller = replace(desk.caller, environ={**desk.caller.environ, "PROXY": "nc"})
    first = desk.dispatcher("ssh-ng://b1 - - 9")
    remote = connect(first)
    first.give_back(remote)
    for name, same in (("SHLVL", True), ("AWS_PROFILE", False)):
        desk.caller = replace(desk.caller, environ={**desk.caller.environ, name: "other"})
        later = desk.dispatcher("ssh-ng://b1 - - 9")
        assert (connect(later) is remote) is same
        if same:
            later.give_back(remote)


SLOW = """#!/bin/sh
case " $* " in
*" -V "*) ;;
*" -G "*) read -r line < {gate}; echo "hostname b1" ;;
*) exec {daemon} ok ;;
esac
"""


@pytest.mark.usefixtures("ssh")
def test_nobody_waits_for_an_ssh_that_decides_by_the_moment(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it runs to decide takes its time for the connection already; nobody else gets that before it has said."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "bin/ssh").write_text(SLOW.format(daemon=" ".join(DAEMON), gate=gate))
    monkeypatch.setattr(configurations, "ssh_files", lambda argv: SshFiles(momentary=True))
    monkeypatch.setattr(configurations, "TOGETHER_S", 3600)
    first = desk.dispatcher("ssh-ng://b1 - - 9")
    remote = connect(first)
    other = connect(desk.dispatcher("ssh-ng://b1 - - 9"))
    assert other is not remote
    # Both ask once.
    gate.write_text("\n")
    route = remote.route
    assert isinstance(route, Command)
    assert desk.configurations.renew(route, 60)
    first.give_back(remote)
    assert connect(desk.dispatcher("ssh-ng://b1 - - 9")) is remote


@pytest.mark.usefixtures("ssh")
def test_a_connection_that_is_not_known_to_lead_anywhere_is_not_kept(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it went may not be where ssh went when it said."""
    monkeypatch.setattr(configurations, "ssh_files", lambda argv: SshFiles(momentary=True))
    first = desk.dispatcher("ssh-ng://b1 - - 9")
    remote = connect(first)
    remote.destination = None
    remote.begun_at -= 3600
    first.give_back(remote)
    assert not is_running(remote)


class Momentary:
    """A configuration that decides by the moment: what ssh says of it now, and what it said too long ago."""

    def __init__(self, desk: Desk) -> None:
        remote = connect(desk.dispatcher("ssh-ng://b1 - - 9"))
        assert remote.opening is not None
        assert isinstance(remote.route, Command)
        answer = desk.configurations.renew(remote.route, 60)
        assert answer is not None
        self.opening = remote.opening
        self.now = replace(answer, options=())
        self.late = replace(self.now, asked_at=answer.asked_at - 2 * HOUR_S)
        self.remotes: list[Remote] = []

    def open(
        self, configuration: Configuration, pause: Callable[[float], object] = pytest.fail, where: str = "there"
    ) -> Remote:
        """Another connection, to be closed with the others."""
        self.remotes.append(self.opening.open(where, configuration, pause, lambda: None)[0])
        return self.remotes[-1]


@pytest.fixture
def momentary(ssh: None, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Momentary]:
    """One to `b1`, where sessions of ssh may share a connection."""
    monkeypatch.setattr(configurations, "ssh_files", lambda argv: SshFiles(momentary=True))
    monkeypatch.setattr(sharing_module, "LONGEST_PATH", 200)
    # However slow this host is.
    monkeypatch.setattr(sharing_module, "JOIN_S", HOUR_S)
    for module in (configurations, pool_module):
        monkeypatch.setattr(module, "TOGETHER_S", HOUR_S)
    made = Momentary(desk)
    yield made
    for remote in made.remotes:
        remote.close()


def is_alone(remote: Remote) -> bool:
    """Whether it has logged in by itself, and nobody else's knowledge is its own."""
    return remote.login_at == remote.begun_at and remote.destination is None


def test_what_is_known_is_not_that_of_a_connection_which_may_lead_elsewhere(momentary: Momentary) -> None:
    """What ssh said a while ago of a configuration that decides by the moment says nothing of a connection made now."""
    alone = replace(momentary.now, options=None)
    first, second = momentary.open(alone), momentary.open(replace(momentary.late, options=None))
    third = momentary.opening.again("there", alone)
    momentary.remotes.append(third)
    assert first.known is third.known
    assert first.known is not second.known
    assert (first.destination, second.destination, third.destination) == ("there", None, "there")
    with pytest.raises(MachineError, match="elsewhere"):
        momentary.opening.again("there", momentary.late)


def test_nobody_shares_a_connection_that_may_lead_elsewhere(momentary: Momentary) -> None:
    """What is asked next may say another destination, for which this session would be kept."""
    first, second = momentary.open(momentary.now), momentary.open(momentary.now)
    assert first.login_at == second.login_at < second.begun_at
    late = momentary.open(momentary.late)
    assert is_alone(late)
    assert late.known is not first.known


def test_nobody_begins_one_for_others_that_may_lead_elsewhere(momentary: Momentary) -> None:
    """Its last session is over, and ssh may have ended it since."""
    momentary.open(momentary.now).close()
    assert is_alone(momentary.open(momentary.late))
    again = momentary.open(momentary.now)
    assert (again.login_at < again.begun_at, again.destination) == (True, "there")


def test_who_has_waited_too_long_for_a_connection_to_share_makes_one(
    desk: Desk, momentary: Momentary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the other login fails, ssh makes one of its own: by then it may lead elsewhere."""
    other = desk.sharing.join("there", (), momentary.opening.private_dir)
    assert other is not None

    def log_in(_: float) -> None:
        with other.opening(pytest.fail, Deadline(60)):
            monkeypatch.setattr(configurations, "TOGETHER_S", -1.0)

    remote = momentary.open(momentary.now, log_in)
    assert is_alone(remote)
    assert remote.known is not desk.pool.known("there")
    monkeypatch.setattr(configurations, "TOGETHER_S", HOUR_S)
    # It has left its place.
    other.leave()
    for _ in range(SESSIONS_EACH):
        momentary.open(momentary.now)
    assert len({each.login_at for each in momentary.remotes}) == 2


@pytest.fixture
def ssh_config(ssh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one file of configuration that ssh reads."""
    path = tmp_path / "config"
    path.write_text("")
    monkeypatch.setattr(configurations, "ssh_files", lambda argv: SshFiles({str(path): sshfiles._stamp(str(path))}))
    return path


def test_a_changed_configuration_is_noticed_at_once(desk: Desk, ssh_config: Path) -> None:
    """Also if ssh says the same of it: a machine on the way may be another one."""
    first = desk.dispatcher("ssh-ng://b1 - - 9")
    remote = connect(first)
    first.give_back(remote)
    ssh_config.write_text("Host jump\n  HostName elsewhere\n")
    assert connect(desk.dispatcher("ssh-ng://b1 - - 9")) is not remote


def test_what_comes_from_where_ssh_led_before_is_no_proof(desk: Desk, ssh_config: Path) -> None:
    """A build goes on there, and says something all the time; the next one goes where ssh leads now."""
    desk.max_jobs = 1
    line = "ssh-ng://b1 - - 9"
    first = desk.dispatcher(line)
    remote = connect(first)
    second = desk.dispatcher(line)
    assert second.promises.may_accept_first(REQUEST, place_of(second))
    ssh_config.write_text("Host b1\n  HostName elsewhere\n")
    remote.client.query_valid_paths([], substitute=False)
    third = desk.dispatcher(line)
    assert not third.promises.may_accept_first(REQUEST, place_of(third))


@pytest.mark.parametrize(("age", "kept"), [("0", False), ("3600", True)])
def test_the_age_that_an_address_allows_is_honoured(desk: Desk, age: str, kept: bool) -> None:
    """As stock does with the connections of one build."""
    line = good(jobs=9).replace("?", f"?max-connection-age={age}&")
    first = desk.dispatcher(line)
    remote = connect(first)
    first.give_back(remote)
    assert (connect(desk.dispatcher(line)) is remote) is kept


def test_a_line_that_allows_less_does_not_get_the_connection_of_one_that_allows_more(desk: Desk) -> None:
    """Both lead to the same machine; each has its own kept."""
    hasty, patient = (good(jobs=9).replace("?", f"?max-connection-age={age}&") for age in (9, 3600))
    first = desk.dispatcher(patient)
    remote = connect(first)
    first.give_back(remote)
    assert connect(desk.dispatcher(hasty)) is not remote
    assert connect(desk.dispatcher(patient)) is remote


def test_an_age_that_is_no_number_costs_that_machine(desk: Desk) -> None:
    """As with stock."""
    dispatcher = desk.dispatcher(good().replace("?", "?max-connection-age=soon&"))
    with pytest.raises(MachineError, match="parameter 'max-connection-age' is 'soon', expected a whole number"):
        connect(dispatcher)


@pytest.mark.usefixtures("ssh")
def test_a_worn_connection_is_followed_by_one_like_it(desk: Desk) -> None:
    """Opened when the build that used it is over, and its conversation, too; the next build finds it."""
    opened: list[Callable[[], object]] = []
    desk.pool = Pool(run=opened.append)
    first = desk.dispatcher("ssh-ng://b1 - - 9")
    remote = connect(first)
    remote.builds = RENEW_BUILDS
    first.give_back(remote)
    first.close()
    for work in opened:
        work()
    assert not is_running(remote)
    other = connect(desk.dispatcher("ssh-ng://b1 - - 9"))
    assert other.destination == remote.destination
    assert other.builds == 1
    assert len(opened) == 1


@pytest.mark.usefixtures("ssh")
def test_a_connection_is_not_followed_where_ssh_would_lead_elsewhere_now(desk: Desk, tmp_path: Path) -> None:
    opened: list[Callable[[], object]] = []
    desk.pool = Pool(run=opened.append)
    first = desk.dispatcher("ssh-ng://b1 - - 9")
    remote = connect(first)
    remote.builds = RENEW_BUILDS
    first.give_back(remote)
    ssh = tmp_path / "bin/ssh"
    ssh.write_text(ssh.read_text().replace("hostname $WHERE", "hostname elsewhere"))
    desk.configurations._answers.clear()
    for work in opened:
        work()
    assert desk.pool.idle() == {remote.name: 1}
    assert is_running(remote)
