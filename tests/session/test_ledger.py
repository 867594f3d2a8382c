"""What is told of builds: as they go on, when they are over, and never more than a bounded number."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from hook.session import ledger as ledger_module
from hook.session.ledger import Build, Conversation, Ledger, Outcome, Phase
from hook.session.record import BUILDS, DECISIONS
from hook.transfer.meter import Meter

DRV = "/nix/store/00000000000000000000000000000001-a.drv"


class World:
    """A clock, a count of copied bytes, and a ledger that reads both."""

    def __init__(self, directory: Path) -> None:
        self.now = 1000.0
        self.meter = Meter(500)
        self.ledger = Ledger(lambda: self.now)
        self._directory = str(directory)

    def conversation(self) -> Conversation:
        return self.ledger.conversation(self.meter)

    def build(self) -> Build:
        (build,) = self.ledger.standing()[0]
        return build

    def over(self) -> list[dict[str, Any]]:
        self.ledger.flush(self._directory)
        return list(BUILDS.read(self._directory))

    def decisions(self) -> list[dict[str, Any]]:
        self.ledger.flush(self._directory)
        return list(DECISIONS.read(self._directory))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_build_is_told_of_as_it_goes_on(world: World) -> None:
    """With its phase, the machine it has moved to, and what was copied since it began."""
    told = world.conversation()
    told.begin(DRV, "ssh://b1")
    world.now += 2
    world.meter.copied_bytes += 30
    build = world.build()
    assert (build.drv_path, build.machine, build.since, build.phase) == (DRV, "ssh://b1", 1000.0, Phase.CONNECTING)
    told.enter(Phase.SENDING, "ssh://b2")
    world.meter.copied_bytes += 4
    build = world.build()
    assert (build.machine, build.phase, build.phase_since) == ("ssh://b2", Phase.SENDING, 1002.0)
    assert (build.sent_bytes, build.received_bytes) == (34, 0)
    for phase, received in ((Phase.FETCHING, 7), (Phase.REGISTERING, 14)):
        told.enter(phase)
        world.meter.copied_bytes += 7
        build = world.build()
        assert (build.phase, build.machine, build.sent_bytes, build.received_bytes) == (phase, "ssh://b2", 34, received)


def test_a_build_that_is_over_is_kept_with_the_time_of_each_phase(world: World) -> None:
    """Phases that were entered twice are added up, as after a loss."""
    told = world.conversation()
    told.begin(DRV, "ssh://b1")
    told.promise()
    for phase in (Phase.SENDING, Phase.BUILDING, Phase.WAITING, Phase.SENDING, Phase.BUILDING, Phase.FETCHING):
        world.now += 1
        world.meter.copied_bytes += 10
        if phase is Phase.WAITING:
            told.lose("ssh://b1")
            told.enter(phase, "ssh://b2")
        else:
            told.enter(phase)
    world.now += 5
    world.meter.copied_bytes += 1000
    told.end(Outcome.BUILT)
    assert world.ledger.standing()[0] == []
    assert world.over() == [
        {
            "derivation": DRV,
            "machine": "ssh://b2",
            "outcome": "built",
            "detail": "",
            "began": 1000.0,
            "ended": 1011.0,
            "seconds": {
                "connecting": 1.0,
                "sending inputs": 2.0,
                "building": 2.0,
                "waiting for a slot": 1.0,
                "fetching outputs": 5.0,
            },
            "sent_bytes": 60,
            "received_bytes": 1000,
            "moved_from": ["ssh://b1"],
        }
    ]
    builds, totals = world.ledger.standing()
    assert builds == []
    assert totals["ssh://b1"].builds == {Outcome.MOVED: 1}
    assert totals["ssh://b2"].builds == {Outcome.BUILT: 1}
    assert totals["ssh://b2"].seconds[Phase.FETCHING] == 5
    assert (totals["ssh://b2"].sent_bytes, totals["ssh://b2"].received_bytes) == (60, 1000)


def test_phases_add_up_to_the_whole_build(tmp_path: Path) -> None:
    """However long it takes to write that down."""
    clock = itertools.count(1000.0)
    ledger = Ledger(lambda: next(clock))
    told = ledger.conversation(Meter())
    told.begin(DRV, "ssh://b1")
    told.promise()
    told.enter(Phase.BUILDING)
    told.end(Outcome.BUILT)
    ledger.flush(str(tmp_path))
    (over,) = BUILDS.read(str(tmp_path))
    assert over["ended"] - over["began"] == sum(over["seconds"].values()) == 2


def test_a_build_whose_end_nobody_told_was_cancelled(world: World) -> None:
    """As one is whose hook was killed."""
    told = world.conversation()
    told.begin(DRV, "ssh://b1")
    told.promise()
    told.close()
    told.close()
    assert [over["outcome"] for over in world.over()] == ["cancelled"]


def test_a_build_that_was_never_promised_is_not_remembered(world: World) -> None:
    """The machine could not be connected to, and Nix was told to go on without us."""
    told = world.conversation()
    told.begin(DRV, "ssh://b1")
    told.drop()
    assert world.ledger.standing()[0] == []
    told.begin(DRV, "ssh://b2")
    told.close()
    assert (world.ledger.standing()[0], world.over(), world.ledger.standing()[1]) == ([], [], {})


def test_the_same_derivation_may_be_built_twice_at_once(world: World) -> None:
    """By two hooks with different stores, say; the oldest is told of first."""
    first, second = world.conversation(), world.conversation()
    second.begin(DRV, "ssh://b2")
    world.now -= 1
    first.begin(DRV, "ssh://b1")
    assert [build.machine for build in world.ledger.standing()[0]] == ["ssh://b1", "ssh://b2"]
    second.drop()
    assert [build.machine for build in world.ledger.standing()[0]] == ["ssh://b1"]


def test_why_a_build_went_where_it_went_is_kept(world: World) -> None:
    """The reason of each machine, and how Nix was answered."""
    told = world.conversation()
    told.decided(DRV, "decline", [("ssh://b1", "lacks feature 'kvm'")])
    told.decided(DRV, "decline", [])
    assert world.decisions() == [
        {
            "at": 1000.0,
            "derivation": DRV,
            "answer": "decline",
            "machines": [{"machine": "ssh://b1", "reason": "lacks feature 'kvm'"}],
        },
        {"at": 1000.0, "derivation": DRV, "answer": "decline", "machines": []},
    ]
    assert world.ledger.answers() == {"decline": 2}


def test_what_a_machine_said_at_length_is_shortened(world: World) -> None:
    """Its beginning and its end; a builder may fail with megabytes, again and again."""
    for _ in range(30):
        told = world.conversation()
        told.begin(DRV, "ssh://b1")
        told.promise()
        told.end(Outcome.FAILED, "first words " + "ü" * 8_000_000 + " last words")
    details = {entry["detail"] for entry in world.over()}
    assert len(details) == 1
    (detail,) = details
    assert detail.startswith("first words ü")
    assert detail.endswith("ü last words")
    assert "7998023 characters left out" in detail
    assert len(detail) < 2100


def test_what_waits_to_be_written_is_bounded_by_its_size(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand machines may each have a reason."""
    monkeypatch.setattr(ledger_module, "UNWRITTEN_CHARACTERS", 1000)
    for number in range(50):
        world.conversation().decided(f"{number:02}", "decline", [("ssh://b1", "x" * 90)] * 2)
    assert [entry["derivation"] for entry in world.decisions()] == ["45", "46", "47", "48", "49"]
    world.conversation().decided("next", "decline", [])
    assert world.decisions()[-1]["derivation"] == "next"


def test_machines_that_were_named_once_are_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command may name others, and other stores."""
    monkeypatch.setattr(ledger_module, "MOST_TOTALS", 3)
    world.ledger = Ledger(lambda: world.now)
    for number in range(5):
        told = world.conversation()
        told.begin(DRV, f"ssh://b{number}")
        told.promise()
        told.lose("ssh://b1")
        told.end(Outcome.BUILT)
        world.ledger.meet(f"/store/{number}", [])
    assert world.ledger.standing()[1].keys() == {"ssh://b1", "ssh://b3", "ssh://b4"}


def test_what_waits_to_be_written_is_bounded_and_counted_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that cannot be written to must not cost a broker its memory."""
    monkeypatch.setattr(ledger_module, "UNWRITTEN", 3)
    world.ledger = Ledger(lambda: world.now)
    for number in range(5):
        told = world.conversation()
        told.decided(str(number), "accept", [])
        told.begin(str(number), "ssh://b1")
        told.promise()
        told.end(Outcome.FAILED, "why")
    assert [entry["derivation"] for entry in world.over()] == ["2", "3", "4"]
    assert [entry["derivation"] for entry in world.decisions()] == ["2", "3", "4"]
    assert world.ledger.answers() == {"accept": 5}
    assert world.ledger.standing()[1]["ssh://b1"].builds == {Outcome.FAILED: 5}
