"""The demo's and the benchmarks' reading of Nix's JSON log, on events as Nix 2.8 writes them."""

import json

from tests.lab.watch import Build, Watch

DRV = "/nix/store/jf8xnx0rnvnr941q5kahr4h5qhy0k5dd-from-source.drv"
PATH = "/nix/store/zh037mp0pf35w7j67d8gsxgn9yvzybr6-source"
MACHINE = "ssh-ng://builder"


def feed(watch: Watch, *events: tuple[float, dict[str, object]]) -> list[Build]:
    ended = (watch.feed("@nix " + json.dumps(event), now) for now, event in events)
    return [build for build in ended if build is not None]


def start(ident: int, kind: int, *fields: object) -> dict[str, object]:
    return {"action": "start", "id": ident, "level": 3, "text": "", "type": kind, "fields": list(fields)}


def stop(ident: int) -> dict[str, object]:
    return {"action": "stop", "id": ident}


def progress(ident: int, done: int) -> dict[str, object]:
    return {"action": "result", "id": ident, "type": 105, "fields": [done, 904, 0, 0]}


def test_a_remote_build_is_reported_when_it_ends() -> None:
    watch = Watch()
    assert feed(watch, (1.0, start(1, 105, DRV, MACHINE, 1, 1)), (2.0, progress(1, 3))) == []
    assert feed(watch, (3.5, stop(1)), (4.0, stop(1))) == [Build(DRV, MACHINE, 1.0, 3.5)]


def test_what_the_remote_daemon_calls_its_own_build_is_not_another_one() -> None:
    """A hook relays the builder's activities; there the machine is empty, because for the builder it is local."""
    assert feed(Watch(), (1.0, start(2, 105, DRV, "", 1, 1)), (2.0, stop(2))) == []


def test_bytes_are_counted_by_machine_and_direction() -> None:
    watch = Watch()
    feed(watch, (1.0, start(1, 100, PATH, "local", MACHINE)), (1.1, progress(1, 500)), (1.2, progress(1, 904)))
    feed(watch, (1.3, stop(1)), (1.4, start(2, 100, PATH, MACHINE, "local")), (1.5, progress(2, 96)), (1.6, stop(2)))
    assert watch.up == {MACHINE: 904}
    assert watch.down == {MACHINE: 96}


def test_errors_are_kept_and_other_text_is_ignored() -> None:
    watch = Watch()
    assert watch.feed("plain text from somewhere", 0.0) is None
    feed(watch, (0.0, {"action": "msg", "level": 0, "msg": "bad"}), (0.0, {"action": "msg", "level": 3, "msg": "fine"}))
    assert watch.errors == ["bad"]
