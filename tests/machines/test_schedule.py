"""Which machine gets a build, and what Nix is told when none does."""

import fcntl
import random
import struct
from collections.abc import Sequence
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hook.front.request import Request
from hook.machines.builders import Machine, parse_machines
from hook.machines.schedule import Answer, Candidate, Decision, Host, decide, no_machine_message, suitable
from hook.values.release import Release
from tests import stockhook
from tests.lab.host import Host as LabHost

SYSTEM = "x86_64-linux"
OLD, NEW = (2, 8), (2, 34)
KNOWN_RELEASES = [(2, 8), (2, 19), (2, 20), (2, 34)]


def no_files(path: str) -> str:
    raise FileNotFoundError(path)


def machines_of(*lines: str) -> list[Machine]:
    machines, warnings = parse_machines("\n".join(lines), default_system=SYSTEM, release=NEW, read_file=no_files)
    assert warnings == []
    return machines


def machine(line: str) -> Machine:
    (only,) = machines_of(line)
    return only


def request(system: str = SYSTEM, *features: str, willing: bool = False) -> Request:
    return Request(system, stockhook.DRV_PATH, frozenset(features), willing)


def host(release: Release = NEW, max_jobs: int = 0, features: Sequence[str] = ()) -> Host:
    return Host(SYSTEM, frozenset({"i686-linux"}), frozenset(features), max_jobs, release)


def busy(line: str, load: int) -> Candidate:
    """A machine with that many slots in use."""
    found = machine(line)
    return Candidate(found, load, load < found.max_jobs)


SUITABLE = [
    # needed system and features, line, why not
    ([SYSTEM], "b1", None),
    ([SYSTEM], "b1 aarch64-linux,x86_64-linux", None),
    (["builtin"], "b1 aarch64-linux", None),
    (["builtin"], "b1 ,", None),
    ([SYSTEM], "b1 aarch64-linux", "is for aarch64-linux only, not x86_64-linux"),
    ([SYSTEM], "b1 a-b,c-d", "is for a-b, c-d only, not x86_64-linux"),
    ([SYSTEM], "b1 ,", "is for no system, only for builtin builders"),
    ([SYSTEM, "kvm"], "b1 - - - - kvm,big", None),
    ([SYSTEM, "kvm"], "b1 - - - - - kvm", None),
    ([SYSTEM, "kvm", "big"], "b1 - - - - big kvm", None),
    ([SYSTEM, "kvm"], "b1", "lacks feature 'kvm'"),
    ([SYSTEM, "kvm", "big", "x"], "b1 - - - - x", "lacks features 'big', 'kvm'"),
    ([SYSTEM], "b1 - - - - - kvm", "takes only builds that require feature 'kvm'"),
    ([SYSTEM, "big"], "b1 - - - - big a,b", "takes only builds that require features 'a', 'b'"),
    (["builtin", "kvm"], "b1", "lacks feature 'kvm'"),
]


@pytest.mark.parametrize(("needed", "line", "reason"), SUITABLE)
def test_a_machine_is_able_or_the_reason_is_said(needed: list[str], line: str, reason: str | None) -> None:
    """System, features it must have, features it insists on."""
    assert suitable(request(*needed), machine(line)) == reason


CHOICES = [
    # candidates as line and load, the chosen one by release
    ([("a - - 1", 0), ("b - - 1", 0)], {OLD: 0, NEW: 0}),
    ([("a - - 2", 1), ("b - - 2", 0)], {OLD: 1, NEW: 1}),
    # Equal load: the faster one.
    ([("a - - 1 1", 0), ("b - - 1 2", 0)], {OLD: 1, NEW: 1}),
    # 1/2 is 0 in whole numbers, so the old rule fills the fast machine first.
    ([("a - - 4 1", 0), ("b - - 4 2", 1)], {OLD: 1, (2, 19): 1, (2, 20): 0, NEW: 0}),
    # Equal quotient and speed, smaller load; 2/4 and 3/4 are both 0 in whole numbers.
    ([("a - - 4 4", 3), ("b - - 4 4", 2)], {OLD: 1, NEW: 1}),
    # 1/1 and 2/2.
    ([("a - - 4 1", 1), ("b - - 4 2", 2)], {OLD: 1, NEW: 1}),
    # A full machine is none, however fast.
    ([("a - - 1 99", 1), ("b - - 2 1", 1)], {OLD: 1, NEW: 1}),
    # The quotients differ only beyond single precision: equal, so the speed decides.
    ([("a - - 99999999 16777216", 16777215), ("b - - 99999999 16777214", 16777213)], {NEW: 0}),
    # The speeds differ only beyond single precision: equal, the first one stays.
    ([("a - - 4 2.99999999", 1), ("b - - 4 3", 1)], {NEW: 0}),
    # With a fraction among them an old release has no rule of its own.
    ([("a - - 4 1.5", 1), ("b - - 4 2", 1)], {OLD: 1, NEW: 1}),
]


@pytest.mark.parametrize(("given_", "chosen"), CHOICES)
def test_the_least_loaded_machine_is_chosen(given_: list[tuple[str, int]], chosen: dict[Release, int]) -> None:
    """Load by speed, then speed, then load, then order."""
    candidates = [busy(line, load) for line, load in given_]
    for release, index in chosen.items():
        decision = decide(request(), host(release), candidates)
        assert decision.answer is Answer.ACCEPT
        assert decision.machine is candidates[index].machine
        assert [verdict.chosen for verdict in decision.verdicts] == [number == index for number in range(len(given_))]


ANSWERS = [
    # line and load or None for none, local max-jobs, willing, answer
    ([], 1, True, Answer.DECLINE_PERMANENTLY),
    ([("b1", 0)], 1, True, Answer.ACCEPT),
    ([("b1", 1)], 0, False, Answer.POSTPONE),
    ([("b1", 1)], 1, False, Answer.POSTPONE),
    ([("b1", 1)], 1, True, Answer.DECLINE),
    ([("b1", 1)], 0, True, Answer.POSTPONE),
    ([("b1 - - 0", 0)], 0, False, Answer.POSTPONE),
    ([("b1 aarch64-linux", None)], 0, False, Answer.DECLINE),
    ([("b1 aarch64-linux", None), ("b2", 1)], 0, False, Answer.POSTPONE),
]


@pytest.mark.parametrize(("given_", "max_jobs", "willing", "answer"), ANSWERS)
def test_without_a_free_machine_nix_is_told_what_it_can_do(
    given_: list[tuple[str, int | None]], max_jobs: int, willing: bool, answer: Answer
) -> None:
    """Ask again later if a machine will be free, build here if that is possible now."""
    candidates = [busy(line, load) if load is not None else Candidate(machine(line)) for line, load in given_]
    assert decide(request(willing=willing), host(max_jobs=max_jobs), candidates).answer is answer


def test_a_machine_that_failed_is_no_reason_to_wait() -> None:
    """Nobody knows when it comes back."""
    decision = decide(request(), host(), [Candidate(machine("b1"), failed="no route to host")])
    assert decision.answer is Answer.DECLINE
    assert [verdict.reason for verdict in decision.verdicts] == ["failed: no route to host"]


@pytest.mark.parametrize(
    ("system", "features", "max_jobs", "able"),
    [
        (SYSTEM, [], 1, True),
        ("i686-linux", [], 1, True),
        ("a-b", [], 1, False),
        (SYSTEM, [], 0, False),
        (SYSTEM, ["kvm"], 1, True),
        (SYSTEM, ["kvm", "big"], 1, False),
        ("builtin", [], 1, False),
    ],
)
def test_what_this_host_could_build(system: str, features: list[str], max_jobs: int, able: bool) -> None:
    """System or an extra platform, all features, and at least one job."""
    asked = request(system, *features, willing=True)
    here = host(max_jobs=max_jobs, features=["kvm"])
    assert here.could_build(asked) is able
    assert here.can_build(asked) is able
    assert not here.can_build(request(system, *features))


def test_every_machine_gets_a_verdict_in_plain_words() -> None:
    """They are what `-v` shows; stock says nothing."""
    candidates = [
        Candidate(machine("m0 aarch64-linux")),
        Candidate(machine("m1"), failed="timed out"),
        busy("m2 - - 1", 1),
        busy("m3 - - 4", 4),
        busy("m4 - - 0", 0),
        busy("m5 - - 4 2", 3),
        busy("m6 - - 4 4", 2),
        busy("m7 - - 4 2", 1),
        busy("m8 - - 4 4", 2),
        Candidate(machine("m9"), 0, True, disabled="disabled by the user"),
    ]
    decision = decide(request(), host(), candidates)
    assert decision.machine is candidates[6].machine
    assert [verdict.reason for verdict in decision.verdicts] == [
        "is for aarch64-linux only, not x86_64-linux",
        "failed: timed out",
        "its only slot is busy",
        "all 4 slots are busy",
        "has no slots (max jobs is 0)",
        "load 3/2 is higher than that of 'm6', 2/4",
        "chosen: load 2/4, 2 of 4 slots busy",
        "speed factor 2 is lower than that of 'm6', 4",
        "load and speed equal that of 'm6', which comes first",
        "disabled by the user",
    ]


def test_more_busy_slots_lose_only_in_whole_numbers() -> None:
    """The last criterion matters only where division drops the remainder."""
    decision = decide(request(), host(OLD), [busy("a - - 4 4", 3), busy("b - - 4 4", 2)])
    assert decision.verdicts[0].reason == "3 busy slots are more than that of 'b', 2"


def stock_choice(candidates: Sequence[Candidate], asked: Request, here: Host) -> Decision:
    """The selection rule written once more, as a loop that keeps the best so far."""

    def single(value: float) -> float:
        (rounded,) = struct.unpack("<f", struct.pack("<f", value))
        return float(rounded)

    best: Candidate | None = None
    right_type = False
    for candidate in candidates:
        m = candidate.machine
        fits = asked.system == "builtin" or asked.system in m.systems
        has = all(feature in m.supported or feature in m.mandatory for feature in asked.features)
        if candidate.failed or not fits or not has or any(f not in asked.features for f in m.mandatory):
            continue
        right_type = True
        if not candidate.slot_free:
            continue
        if best is None:
            best = candidate
            continue
        assert candidate.load is not None
        assert best.load is not None
        loads = (candidate.load, best.load)
        speeds = (m.speed_factor, best.machine.speed_factor)
        if here.release >= (2, 20):
            mine, theirs = (single(single(load) / single(speed)) for load, speed in zip(loads, speeds, strict=True))
        else:
            mine, theirs = (load // int(speed) for load, speed in zip(loads, speeds, strict=True))
        better = mine < theirs
        if mine == theirs:
            better = speeds[0] > speeds[1]
            if speeds[0] == speeds[1]:
                better = loads[0] < loads[1]
        if better:
            best = candidate
    could = here.max_jobs > 0 and asked.system in (here.system, *here.extra_platforms)
    can = asked.am_willing and could and asked.features <= here.features
    if not candidates:
        return Decision(Answer.DECLINE_PERMANENTLY, None, ())
    if best is not None:
        return Decision(Answer.ACCEPT, best.machine, ())
    return Decision(Answer.POSTPONE if right_type and not can else Answer.DECLINE, None, ())


systems = st.sampled_from([SYSTEM, "i686-linux", "builtin"])
features = st.frozensets(st.sampled_from(["kvm", "big"]))
whole_speeds = st.sampled_from(["1", "2", "3", "4", "7"])
speeds = whole_speeds | st.sampled_from(["0.5", "1.5", "0.1", "0.3", "2.9999999", "3.0000001"])


@st.composite
def situations(draw: st.DrawFn) -> tuple[Request, Host, list[Candidate]]:
    """A request, a host and machines in any state."""
    release = draw(st.sampled_from(KNOWN_RELEASES))
    candidates = []
    for number in range(draw(st.integers(0, 5))):
        jobs = draw(st.integers(0, 9))
        load = draw(st.integers(0, jobs))
        columns = [f"b{number}", draw(st.sampled_from(["-", SYSTEM, "i686-linux", f"{SYSTEM},i686-linux"])), "-"]
        columns += [str(jobs), draw(speeds if release >= (2, 20) else whole_speeds)]
        columns += [",".join(draw(features)) or "-" for _ in range(2)]
        out = draw(st.sampled_from([None, None, None, "failed"]))
        candidates.append(Candidate(machine(" ".join(columns)), load, load < jobs, out))
    asked = Request(draw(systems), stockhook.DRV_PATH, draw(features), draw(st.booleans()))
    here = Host(SYSTEM, frozenset(), draw(features), draw(st.integers(0, 1)), release)
    return asked, here, candidates


@given(situations())
def test_every_choice_is_that_of_a_second_implementation(
    situation: tuple[Request, Host, list[Candidate]],
) -> None:
    """One is a minimum over a key, the other a loop with a best so far."""
    asked, here, candidates = situation
    decision, expected = decide(asked, here, candidates), stock_choice(candidates, asked, here)
    assert (decision.answer, decision.machine) == (expected.answer, expected.machine)
    assert [verdict.machine for verdict in decision.verdicts] == [candidate.machine for candidate in candidates]
    assert [verdict.machine for verdict in decision.verdicts if verdict.chosen] == [
        chosen for chosen in [decision.machine] if chosen is not None
    ]


@pytest.mark.lab
@pytest.mark.parametrize("seed", range(8))
def test_the_stock_hook_tries_the_machines_in_our_order(builder: LabHost, seed: int) -> None:
    """No connection succeeds, so stock goes from the best machine to the worst; slots are held by this test."""
    release = stockhook.release_of_host(builder)
    rng = random.Random(seed)
    speed_factors = ["1", "2", "3", "4"] + (["1.5", "0.1", "0.3"] if release >= (2, 20) else [])
    lines, load = [], {}
    for number in range(7):
        jobs = rng.randrange(1, 6)
        lines.append(f"b{number} {rng.choice(['-', SYSTEM, 'a-b'])} - {jobs} {rng.choice(speed_factors)}")
        load[f"ssh://b{number}"] = rng.randrange(0, jobs + 1)
    current_load = stockhook.fresh_state(builder) / "current-load"
    with ExitStack() as held:
        for uri, count in load.items():
            for slot in range(count):
                file = held.enter_context((current_load / f"{uri.replace('/', '_')}-{slot}").open("w"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stock = stockhook.ask(builder, "\n".join(lines))

    failed: set[Machine] = set()
    ours: list[str] = []
    machines = machines_of(*lines)
    while True:
        candidates = [
            Candidate(m, load[m.uri.text], load[m.uri.text] < m.max_jobs, "failed" if m in failed else None)
            for m in machines
        ]
        decision = decide(request(), host(release), candidates)
        if decision.machine is None:
            break
        ours.append(decision.machine.uri.text)
        failed.add(decision.machine)
    assert stock.tried == ours
    assert stock.answers == [f"# {decision.answer.value}"]


REFUSALS = [
    # request, settings of the parent
    (request("a-b"), {}),
    (request("a-b", "big", "kvm"), {}),
    (request(SYSTEM, "nobody-has-this"), {}),
    (request(SYSTEM, "kvm", willing=True), {"max_jobs": "2", "system_features": "kvm"}),
    (request(SYSTEM, "kvm", willing=False), {"max_jobs": "2", "system_features": "kvm"}),
    (request("i686-linux", "kvm", willing=False), {"max_jobs": "2", "system_features": "kvm"}),
]


@pytest.mark.lab
@pytest.mark.parametrize(("asked", "settings"), REFUSALS)
def test_the_refusal_is_stocks_own(builder: LabHost, asked: Request, settings: dict[str, str]) -> None:
    """Text, colours and level, as the user of each release knows them."""
    release = stockhook.release_of_host(builder)
    lines = ["b1 c-d,a-c,c-d - 3 2 z,a,m q,b", "b2 e-f"]
    stockhook.fresh_state(builder)
    stock = stockhook.ask(builder, "\n".join(lines), asked, extra_platforms="i686-linux", **settings)
    here = host(release, int(settings.get("max_jobs", 0)), settings.get("system_features", "").split())
    assert stock.answers == ["# decline"]
    said = [message for message in stock.messages if "Failed to find" in message[1]]
    assert said == [no_machine_message(asked, here, machines_of(*lines))]


def test_the_level_before_2_14_asks_whether_the_parent_would_start_it_now() -> None:
    """Later releases ask whether it ever could."""
    asked = request(willing=False)
    assert no_machine_message(asked, host((2, 13), max_jobs=1), [])[0] == 1
    assert no_machine_message(asked, host((2, 14), max_jobs=1), [])[0] == 5
    # Stock of that time does not look at max-jobs.
    assert no_machine_message(request(willing=True), host((2, 13), max_jobs=0), [])[0] == 5
