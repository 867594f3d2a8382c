"""What a machine is asked about inputs; how they get there is in test_build.py, test_session.py, test_upload.py."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hook.front.log import Log
from hook.transfer import inputs
from hook.transfer.claims import Uploads
from hook.transfer.copier import LocalEnd
from hook.transfer.inputs import Inputs, missing_there
from hook.transfer.meter import Meter


def test_no_question_is_longer_than_memory_allows(monkeypatch) -> None:
    """A closure may have any number of paths; each is asked about once, and nothing is asked about none."""
    monkeypatch.setattr(inputs, "ASKED_AT_ONCE", 10)
    questions: list[Collection[str]] = []

    def query_valid_paths(paths: Collection[str], substitute: bool) -> set[str]:
        assert substitute
        questions.append(paths)
        return {path for path in paths if path.endswith("7")}

    remote = cast(Any, SimpleNamespace(client=SimpleNamespace(query_valid_paths=query_valid_paths)))
    paths = [str(number) for number in range(25)]
    assert missing_there(remote, paths, substitute=True) == set(paths) - {"7", "17"}
    assert sorted(path for question in questions for path in question) == sorted(paths)
    assert [len(question) for question in questions] == [10, 10, 5]
    assert missing_there(remote, [], substitute=True) == set()
    assert len(questions) == 3


class Machine:
    """One that has nothing, and remembers with what patience it was asked and how it was sent something."""

    def __init__(self, *, breaks_batches: bool) -> None:
        self.name = "ssh-ng://b1"
        self.patience: list[float | None] = []
        self.client = SimpleNamespace(breaks_batches=breaks_batches, query_valid_paths=lambda *_, **__: set())
        self.known = SimpleNamespace(unknown=list, add=lambda paths: None)
        self.stream = SimpleNamespace(silence_s=60.0, patience=self._patience)

    @contextmanager
    def _patience(self, seconds: float | None) -> Iterator[None]:
        self.patience.append(seconds)
        yield


class Recorded(Inputs):
    """Sends nothing."""

    def _send(self, remote: object, missing: Collection[str]) -> None:
        self.sent = set(missing)


class Slots:
    """Upload locks, of which it remembers whose were taken."""

    def __init__(self) -> None:
        self.locked: list[str] = []

    @contextmanager
    def upload_lock(self, name: str, *_: object) -> Iterator[None]:
        self.locked.append(name)
        yield


def upload(machine: Machine, *, shared: bool = True, substitute: bool = False) -> tuple[Slots, Uploads]:
    """Bring one input to `machine`."""
    slots, uploads = Slots(), Uploads(shared=shared)
    here = LocalEnd(cast(Any, None), cast(Any, SimpleNamespace(pause=None)), Log(2, 0), Meter(), (2, 34))
    inputs_there = Recorded(here, uploads, cast(Any, slots), substitute=substitute)
    inputs_there.upload(cast(Any, machine), ["/nix/store/a"], lambda: None)
    assert inputs_there.sent == {"/nix/store/a"}
    return slots, uploads


@pytest.mark.parametrize(
    ("shared", "breaks_batches", "locks"),
    [(True, False, False), (True, True, True), (False, False, True), (False, True, True)],
)
def test_other_processes_are_kept_out_where_two_uploads_would_break(
    shared: bool, breaks_batches: bool, locks: bool
) -> None:
    """A daemon before 2.18 loses track of the stream if a path becomes valid on its way, whoever has sent it."""
    slots, uploads = upload(Machine(breaks_batches=breaks_batches), shared=shared)
    assert slots.locked == ["ssh-ng://b1"] * locks
    # Whoever had asked before asks again.
    assert uploads.ended("ssh-ng://b1") == 1


@pytest.mark.parametrize(("substitute", "patience_s"), [(True, None), (False, 60.0)])
def test_a_machine_that_fetches_may_be_silent(substitute: bool, patience_s: float | None) -> None:
    """For as long as that takes; it has nothing to say meanwhile."""
    machine = Machine(breaks_batches=False)
    upload(machine, substitute=substitute)
    assert machine.patience[0] == patience_s
