"""No path is sent twice to a machine at the same time, and no two builds wait for each other for ever."""

import random
import threading
from collections.abc import Set as AbstractSet
from contextlib import nullcontext

from hook.transfer.claims import Uploads


class Store:
    """What a machine has, and how often each path was sent to it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.valid: set[str] = set()
        self.sent: dict[str, int] = {}

    def missing(self, paths: AbstractSet[str]) -> AbstractSet[str]:
        with self.lock:
            return paths - self.valid

    def add(self, paths: AbstractSet[str]) -> None:
        with self.lock:
            for path in paths:
                self.sent[path] = self.sent.get(path, 0) + 1
            self.valid |= paths


def test_a_path_that_is_on_its_way_is_waited_for_and_not_sent_again() -> None:
    """Two builds with the same compiler among their inputs: it travels once."""
    uploads, store = Uploads(shared=True), Store()
    pauses = 0

    def finish_first(_: float) -> None:
        nonlocal pauses
        pauses += 1
        store.add({"compiler"})
        first.__exit__(None, None, None)

    first = uploads.claimed("m", {"compiler"}, uploads.ended("m"), store.missing, nullcontext(), finish_first)
    assert first.__enter__() == {"compiler"}
    second = {"compiler", "source"}
    with uploads.claimed("m", second, uploads.ended("m"), store.missing, nullcontext(), finish_first) as claimed:
        assert claimed == {"source"}
    assert pauses == 1


def test_different_paths_and_different_machines_do_not_wait() -> None:
    """There is no lock for a whole machine."""
    uploads, store = Uploads(shared=True), Store()

    def never(_: float) -> None:
        raise AssertionError("nothing to wait for")

    with (
        uploads.claimed("m", {"a"}, uploads.ended("m"), store.missing, nullcontext(), never),
        uploads.claimed("m", {"b"}, uploads.ended("m"), store.missing, nullcontext(), never),
        uploads.claimed("n", {"a"}, uploads.ended("n"), store.missing, nullcontext(), never),
    ):
        pass


def test_a_build_that_fails_gives_its_claims_up() -> None:
    """Its connection broke; the next build sends the path."""
    uploads, store = Uploads(shared=True), Store()
    try:
        with uploads.claimed("m", {"a"}, uploads.ended("m"), store.missing, nullcontext(), lambda _: None):
            raise ConnectionError
    except ConnectionError:
        pass
    with uploads.claimed("m", {"a"}, uploads.ended("m"), store.missing, nullcontext(), lambda _: None) as claimed:
        assert claimed == {"a"}


def test_under_any_schedule_everything_arrives_exactly_once() -> None:
    """Twenty builds with overlapping inputs, from as many threads."""
    uploads, store = Uploads(shared=True), Store()
    everything = [f"p{index}" for index in range(30)]

    def build(seed: int) -> None:
        wanted = set(random.Random(seed).sample(everything, 10))
        ended = uploads.ended("m")
        missing = store.missing(wanted)
        with uploads.claimed("m", missing, ended, store.missing, nullcontext(), lambda _: None) as claimed:
            store.add(claimed)
        assert wanted <= store.valid

    threads = [threading.Thread(target=build, args=(seed,)) for seed in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert set(store.sent.values()) == {1}
