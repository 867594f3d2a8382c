"""The local store without a Nix: what an import asks of the disk, and what an error leaves.

What Nix makes of the same is in test_local.py.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from hook.errors import StockOnly, StoreError
from hook.store import local as module
from hook.store.databases import Databases
from hook.store.local import LocalStore
from hook.values.info import PathInfo
from hook.values.path import text_path
from hook.values.settings import Settings
from tests.fakes.store import FakeStore
from tests.leaks import no_leaks

PATH = f"/nix/store/{'1' * 32}-path"
INFO = PathInfo(PATH, None, bytes(32), 8, ())


@pytest.fixture
def fake(tmp_path: Path) -> FakeStore:
    store = FakeStore(tmp_path)
    (store.state / "temproots").mkdir()
    return store


Open = Callable[..., LocalStore]


@pytest.fixture
def opened(fake: FakeStore) -> Iterator[Open]:
    """Opens the store with settings of Nix."""
    stores: list[LocalStore] = []

    def start(databases: Databases | None = None, **settings: str) -> LocalStore:
        given = {name.replace("_", "-"): value for name, value in settings.items()}
        stores.append(LocalStore.open(Settings({"store": f"local?root={fake.root}", **given}), {}, databases))
        return stores[-1]

    yield start
    for store in stores:
        store.close()


def test_a_second_close_gives_no_database_away_twice(opened: Open) -> None:
    """Two conversations would have one connection."""
    databases = Databases()
    store = opened(databases)
    first = store.database
    store.close()
    store.close()
    one, other = opened(databases), opened(databases)
    assert one.database is first
    assert other.database is not first
    one.close(), other.close()
    databases.close()


def test_what_was_never_needed_is_not_opened(opened: Open) -> None:
    """A declined build needs no database."""
    with no_leaks():
        opened().close()


@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_directory_that_cannot_be_flushed_is_an_error_of_the_store(
    opened: Open, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Nothing becomes valid that may not be on the disk, and the user is told which directory it is."""
    store = opened(fsync_store_paths="true")
    store.database.valid_among([])
    real = getattr(os, call)

    def fail(what: object, *rest: int) -> int:
        if call == "fsync" or what == store.real_store_dir:
            raise OSError(5, "Input/output error")
        return int(real(what, *rest))

    monkeypatch.setattr(os, call, fail)
    with (
        no_leaks(),
        pytest.raises(StoreError, match=f"cannot write '{store.real_store_dir}' to disk: Input/output error"),
    ):
        store.commit([INFO])
    monkeypatch.undo()
    assert store.database.valid_among([PATH]) == set()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, []),
        ({"fsync_store_paths": "true"}, ["fsync"]),
        ({"sync_before_registering": "true"}, ["sync"]),
        ({"fsync_store_paths": "true", "sync_before_registering": "true"}, ["fsync", "sync"]),
    ],
)
def test_the_disk_is_flushed_before_anything_is_registered(
    opened: Open, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], expected: list[str]
) -> None:
    """After a crash a valid path must be there."""
    store = opened(**settings)
    calls: list[str] = []
    register = store.database.register

    def note(*arguments: object) -> None:
        calls.append("register")
        register([INFO], 1)

    monkeypatch.setattr(module, "_fsync_directory", lambda path: calls.append("fsync"))
    monkeypatch.setattr(os, "sync", lambda: calls.append("sync"))
    monkeypatch.setattr(store.database, "register", note)
    store.commit([INFO])
    assert calls == [*expected, "register"]


def test_a_path_is_rooted_before_anybody_looks_at_it(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the question whether it is valid and its use a collector may delete it."""
    store = opened()
    events: list[str] = []
    monkeypatch.setattr(store.temp_roots, "add", lambda paths: events.append("root"))
    monkeypatch.setattr(store.database, "valid_among", lambda paths: events.append("look") or set())
    assert store.prepare(PATH) == store.real_path(PATH)
    with store.locked([PATH], pytest.fail, pytest.fail):
        pass
    assert events == ["root", "look"] * 2


def test_what_is_in_the_way_is_removed_and_what_is_valid_is_not(fake: FakeStore, opened: Open) -> None:
    """A path that somebody else has imported meanwhile is left alone."""
    store = opened()
    there = Path(store.real_path(PATH))
    there.mkdir()
    (there / "file").write_text("left over")
    assert store.prepare(PATH) == str(there)
    assert not there.exists()
    assert store.prepare(fake.source) is None
    assert fake.content(fake.source) == "input\n"


def test_only_what_is_not_valid_is_locked(fake: FakeStore, opened: Open) -> None:
    """The parent has the locks of outputs that it knows; a valid path needs none."""
    store = opened()
    with store.locked([PATH, fake.source], pytest.fail, pytest.fail):
        assert [file.name for file in fake.real.glob("*.lock")] == [f"{os.path.basename(PATH)}.lock"]
    assert list(fake.real.glob("*.lock")) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "x", f"{'1' * 32}-a/b", f"{'1' * 31}-a"])
def test_nothing_outside_the_store_is_prepared(opened: Open, name: str) -> None:
    """A machine names paths."""
    with pytest.raises(StoreError):
        opened().prepare(f"/nix/store/{name}")


@pytest.mark.parametrize(
    ("change", "nar_hash", "nar_size", "message"),
    [
        ({}, b"\1" * 32, 8, "hash mismatch importing path"),
        ({}, bytes(32), 16, "size mismatch importing path"),
        ({"deriver": "/etc/passwd"}, bytes(32), 8, "is not in the Nix store"),
    ],
)
def test_what_is_not_what_it_was_declared_as_is_refused(
    opened: Open, change: dict[str, str], nar_hash: bytes, nar_size: int, message: str
) -> None:
    """Each alone is enough."""
    store = opened()
    store.check_import(INFO, bytes(32), 8)
    with pytest.raises(StoreError, match=message):
        store.check_import(replace(INFO, **change), nar_hash, nar_size)


def test_a_derivation_is_read_from_the_store_on_disk(fake: FakeStore, opened: Open) -> None:
    assert opened().read_derivation(fake.drv_path) == fake.derivation


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("gone.drv", None, StoreError, "cannot read derivation .*: No such file"),
        ("bad.drv", b"Derive(", StoreError, "error parsing derivation"),
        (
            "wild.drv",
            b'Derive([("out","/etc/passwd","","")],[],[],"s","b",[],[])',
            StoreError,
            "error parsing derivation",
        ),
        ("git.drv", b'Derive([("out","","git:sha1","")],[],[],"s","b",[],[])', StockOnly, "addressed by 'git:sha1'"),
        ("odd.drv", b'Derive([("out","","r:blake3","")],[],[],"s","b",[],[])', StockOnly, "addressed by 'r:blake3'"),
        ("a.drv.drv", b"", StockOnly, "dynamic derivations"),
    ],
)
def test_a_derivation_that_cannot_be_used_is_named_or_left_to_stock(
    fake: FakeStore, opened: Open, name: str, content: bytes | None, error: type[Exception], message: str
) -> None:
    """Before the build is accepted."""
    path = text_path(bytes(32), [], name, "/nix/store")
    if content is not None:
        (fake.real / os.path.basename(path)).write_bytes(content)
    with closing(opened()) as store, pytest.raises(error, match=message):
        store.read_derivation(path)
