"""What a build reads, and what of it a machine lacks; tests/lab/test_command.py asks real machines."""

import os
from dataclasses import replace
from pathlib import Path

from hook.cli.probe.lacking import Inputs, Lack, inputs_of, lacks_of
from hook.remote.routes import Routes
from hook.store.location import StoreLocation
from hook.values.settings import Settings
from tests.fakes.store import FakeStore
from tests.machines.test_schedule import NEW, machine


def location(store: FakeStore) -> StoreLocation:
    return StoreLocation("/nix/store", str(store.real), str(store.state), str(store.root))


def test_inputs_come_with_all_they_refer_to(tmp_path: Path) -> None:
    """And with their sizes; what is not built yet is counted."""
    store = FakeStore(tmp_path)
    user = store.add(b"", "user", [store.source])
    unbuilt, _ = store.add_derivation("unbuilt")
    floating, _ = store.add_floating()
    inputs = ((floating, ("out",)), (unbuilt, ("out",)))
    found = inputs_of(replace(store.derivation, input_drvs=inputs, input_srcs=(user,)), location(store))
    assert found.sizes.keys() == {user, store.source}
    assert all(size > 0 for size in found.sizes.values())
    assert found.unbuilt == 2


def test_a_machine_that_is_not_reached_is_told_as_such(tmp_path: Path) -> None:
    """Beside those that are."""
    routes = Routes(Settings({}), NEW, {"PATH": str(tmp_path)}, str(tmp_path), os.getpid(), 1)
    (lack,) = lacks_of([machine("ssh-ng://box")], Inputs({}, 0), routes, NEW).values()
    assert (lack.words, lack.to_json()) == ("not reached", {"error": "cannot run 'ssh': No such file or directory"})


def test_what_is_lacking_is_counted() -> None:
    assert Lack(3, 4_200_000).words == "3 paths, 4.2 MB"
    assert Lack().words == "nothing"
    assert Lack(3, 4_200_000).to_json() == {"paths": 3, "bytes": 4_200_000}
