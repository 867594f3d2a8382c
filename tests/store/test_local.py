"""Imports: the store afterwards is the one Nix would have left, and a failed import leaves nothing valid."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hook.errors import NarError, StockOnly, StoreError
from hook.store.local import LocalStore
from hook.store.nar import Dumper, Restorer
from hook.values.info import PathInfo, format_hash
from hook.values.path import base_name
from hook.values.settings import Settings
from tests.leaks import no_leaks
from tests.nixstore import NixStore, copy, restore

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> NixStore:
    """A store with outputs of every kind, signed, one of them rewritten to contain its own address."""
    store = NixStore(tmp_path_factory.mktemp("built"))
    outputs = store.build()
    key = store.root / "key"
    store.run("nix-store", "--generate-binary-cache-key", "key-1", str(key), f"{key}.pub")
    store.run("nix", "store", "sign", "--all", "-k", str(key))
    store.run("nix", "store", "make-content-addressed", "-r", *outputs)
    return store


@pytest.fixture
def source(built: NixStore) -> Iterator[LocalStore]:
    """The store that imports come from."""
    opened = built.open()
    yield opened
    opened.close()


@pytest.fixture
def nix(built: NixStore, tmp_path: Path) -> NixStore:
    """An empty store of the same name."""
    return NixStore(tmp_path / "nix", names=built.store_dir)


@pytest.fixture
def target(nix: NixStore) -> Iterator[LocalStore]:
    """The store that imports go to."""
    opened = nix.open()
    yield opened
    opened.close()


def _infos(built: NixStore, source: LocalStore) -> list[PathInfo]:
    """What a machine would report: references first, and built elsewhere."""
    infos = source.database.path_infos(built.objects())
    return [replace(infos[path], ultimate=False) for path in built.objects()]


def _leaf(built: NixStore, source: LocalStore) -> PathInfo:
    return next(info for info in _infos(built, source) if info.path.endswith("-leaf") and not info.ca)


# The whole way


def test_an_import_leaves_what_nix_leaves(
    built: NixStore, source: LocalStore, nix: NixStore, target: LocalStore, tmp_path: Path
) -> None:
    """Every column, reference, mode, time, owner and link, for outputs of every kind."""
    stock = NixStore(tmp_path / "stock", names=built.store_dir)
    stock.run("nix", "copy", "--no-check-sigs", "--from", built.uri, "--to", stock.uri, *built.objects())
    for info in _infos(built, source):
        copy(source, target, [info])
    assert nix.contents() == stock.contents()
    assert len(nix.contents()["ValidPaths"]) > 10
    assert nix.files() == stock.files()
    nix.verify()


def test_a_batch_leaves_the_same_in_one_transaction(
    built: NixStore, source: LocalStore, nix: NixStore, target: LocalStore
) -> None:
    """All outputs of a build at once, in an order that is not theirs."""
    copy(source, target, _infos(built, source)[::-1])
    assert sorted(nix.objects()) == sorted(built.objects())
    nix.verify()
    for path in nix.objects():
        references = nix.lines("nix-store", "-q", "--references", path)
        assert references == built.lines("nix-store", "-q", "--references", path)


@pytest.mark.parametrize("setting", ["fsync_store_paths", "sync_before_registering", "fsync_metadata"])
def test_durability_settings_are_honoured(
    built: NixStore, source: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    """What reaches the disk before the registration does."""
    nix = NixStore(tmp_path / "durable", names=built.store_dir, **{setting: "true"}, auto_optimise_store="true")
    calls: list[str] = []
    fsync = os.fsync

    def record(fd: int) -> None:
        calls.append(os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "sync", lambda: calls.append("everything"))
    target = nix.open()
    # One of the settings is of a later Nix, which hashes what refers to itself otherwise.
    copy(source, target, [info for info in _infos(built, source) if not info.references])
    assert ("everything" in calls) == (setting == "sync_before_registering")
    assert (str(nix.real_store_dir) in calls) == (setting == "fsync_store_paths")
    assert target.restore_options()["fsync"] == (setting == "fsync_store_paths")
    target.close()
    nix.verify()


def test_kept_attributes_are_those_of_the_settings(nix: NixStore) -> None:
    """Restoring removes every other extended attribute."""
    assert "security.selinux" in nix.open().restore_options()["kept_xattrs"]
    opened = LocalStore.open(Settings({"ignored-acls": "user.a user.b"}), nix.environ)
    assert opened.restore_options()["kept_xattrs"] == ["user.a", "user.b"]


@pytest.mark.parametrize(("setting", "refused"), [("json-log-path", 64), ("fsync-store-paths", None)])
def test_the_nix_that_runs_us_decides_how_deep_a_tree_may_be(
    nix: NixStore, tmp_path: Path, setting: str, refused: int | None
) -> None:
    """One that such a Nix could not read is not brought into its store; its release shows in its settings."""
    options = LocalStore.open(Settings({setting: "" if setting == "json-log-path" else "false"}), nix.environ)
    for levels in (63, 64):
        tree = tmp_path / f"tree-{levels}"
        (tree / "/".join("d" * (levels - 1))).mkdir(parents=True)
        (tree / "/".join("d" * (levels - 1)) / "file").touch()
        with (
            Dumper(str(tree)) as dumper,
            Restorer(str(tmp_path / f"restored-{levels}"), **options.restore_options()) as restorer,
        ):
            nar = bytearray(1 << 20)
            size = dumper.read_into(nar)
            if levels == refused:
                with pytest.raises(NarError, match="exceeds maximum depth of 64"):
                    restorer.feed(memoryview(nar)[:size])
            else:
                assert restorer.feed(memoryview(nar)[:size]) == size


# Prepare


def test_a_valid_path_is_left_alone(built: NixStore, source: LocalStore, nix: NixStore, target: LocalStore) -> None:
    """It became valid meanwhile: deleting it would break whoever uses it already."""
    info = _leaf(built, source)
    copy(source, target, [info])
    assert target.prepare(info.path) is None
    nix.verify()


def test_whatever_invalid_is_in_the_way_goes(
    built: NixStore, source: LocalStore, nix: NixStore, target: LocalStore
) -> None:
    """The remains of a killed import, a failed local build, or somebody's mistake."""
    info = _leaf(built, source)
    remains = Path(target.real_path(info.path))
    (remains / "bin").mkdir(parents=True)
    (remains / "bin" / "leaf").write_bytes(b"half")
    (remains / "bin").chmod(0o555)
    copy(source, target, [info])
    nix.verify()


def test_a_collector_spares_what_is_being_imported(
    built: NixStore, source: LocalStore, nix: NixStore, target: LocalStore
) -> None:
    """From before its first byte until after its registration."""
    info = _leaf(built, source)
    restore(source, target, info)
    nix.collect()
    target.commit([info])
    nix.collect()
    assert nix.objects() == [info.path]
    nix.verify()


@pytest.mark.parametrize("name", ["../../etc", "", "name", "0c0zrkwjnlrhzdhmjhqsprjf8ia1p9ns-a/b"])
def test_nothing_outside_the_store_is_prepared(target: LocalStore, name: str) -> None:
    """A path that is no store path would be deleted and written somewhere else."""
    with pytest.raises(StoreError, match="is not a store path"):
        target.prepare(f"{target.store_dir}/{name}")


# Checks


def test_refusals_are_in_the_words_of_nix(
    built: NixStore, source: LocalStore, nix: NixStore, target: LocalStore
) -> None:
    """A wrong hash, a wrong size and an untrue address, each told to both."""
    info = next(info for info in _infos(built, source) if info.path.endswith("-pair") and not info.ca)
    cache = nix.root / "cache"
    uri = f"file://{cache}?store={built.store_dir}"
    built.run("nix", "copy", "--to", f"{uri}&compression=none", info.path)
    narinfo = cache / f"{base_name(info.path)[:32]}.narinfo"
    original = narinfo.read_text()
    actual_hash, actual_size = info.nar_hash, info.nar_size
    claim = f"fixed:r:{format_hash(actual_hash)}"
    for wrong, text in (
        (
            replace(info, nar_hash=bytes(32)),
            original.replace(f"NarHash: {format_hash(actual_hash)}", f"NarHash: {format_hash(bytes(32))}"),
        ),
        (replace(info, nar_size=8), original.replace(f"NarSize: {actual_size}", "NarSize: 8")),
        (replace(info, ca=claim), f"{original}CA: {claim}\n"),
    ):
        assert text != original
        narinfo.write_text(text)
        stock = nix.run("nix", "copy", "--no-check-sigs", "--from", uri, info.path, check=False).stderr.decode()
        assert target.prepare(info.path)
        with pytest.raises(StoreError) as caught:
            restore(source, target, wrong) if not wrong.ca else target.check_import(wrong, actual_hash, actual_size)
        assert str(caught.value).split() == stock.partition("error: ")[2].split()
        assert info.path not in nix.objects()


def test_what_cannot_be_registered_is_refused(built: NixStore, source: LocalStore, target: LocalStore) -> None:
    """A machine could otherwise make the whole database unreadable for Nix."""
    info = _leaf(built, source)
    assert target.prepare(info.path)
    with pytest.raises(StoreError, match="is not in the Nix store"):
        restore(source, target, replace(info, deriver="/etc/passwd"))


def test_a_refused_import_can_be_tried_again(
    built: NixStore, source: LocalStore, nix: NixStore, target: LocalStore
) -> None:
    """From another machine, into the same place."""
    info = _leaf(built, source)
    with pytest.raises(StoreError, match="hash mismatch"):
        restore(source, target, replace(info, nar_hash=bytes(32)))
    copy(source, target, [info])
    nix.verify()


def test_content_is_checked_against_its_address(built: NixStore, source: LocalStore, target: LocalStore) -> None:
    """The path follows from the claim, but the claim is not true of the content: a forged fixed output."""
    info = next(info for info in _infos(built, source) if info.ca.startswith("fixed:sha256:"))
    real_path = target.prepare(info.path)
    assert real_path
    Path(real_path).write_bytes(b"forged")
    with pytest.raises(StoreError, match="ca hash mismatch importing path"):
        target.check_import(info, info.nar_hash, info.nar_size)


# Interruptions

IMPORT_AND_HANG = """
import sys
from hook.store.nar import Dumper, Restorer
from hook.values.settings import Settings
from hook.store.local import LocalStore
source, target = (LocalStore.open(Settings({"store": uri}), {}) for uri in sys.argv[1:3])
infos = list(source.database.path_infos(sys.argv[3:]).values())
for info in infos:
    buffer = bytearray(info.nar_size)
    with Dumper(source.real_path(info.path)) as dumper:
        dumper.read_into(buffer)
    with Restorer(target.prepare(info.path), **target.restore_options()) as restorer:
        restorer.feed(memoryview(buffer)[: info.nar_size // 2])
        print("half", flush=True)
        sys.stdin.readline()
        restorer.feed(memoryview(buffer)[info.nar_size // 2 :])
        target.check_import(info, restorer.digest(), restorer.size)
print("restored", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("steps", [1, 2])
def test_a_killed_import_leaves_nothing_valid(
    built: NixStore, source: LocalStore, nix: NixStore, target: LocalStore, steps: int
) -> None:
    """Killed within a NAR and between restore and commit: Nix finds its store clean, and the next import succeeds."""
    info = _leaf(built, source)
    with subprocess.Popen(
        [sys.executable, "-c", IMPORT_AND_HANG, built.uri, nix.uri, info.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stdout
        for expected in (b"half\n", b"restored\n")[:steps]:
            assert process.stdout.readline() == expected
            if expected == b"half\n" and steps == 2:
                process.stdin.write(b"\n")
                process.stdin.flush()
        process.send_signal(signal.SIGKILL)
    assert nix.objects() == []
    assert os.path.exists(target.real_path(info.path))
    nix.verify()
    nix.collect()
    assert not os.path.exists(target.real_path(info.path))
    copy(source, target, [info])
    nix.verify()


# Opening and derivations


def test_the_store_is_the_one_of_the_settings(nix: NixStore, target: LocalStore) -> None:
    """Names are logical, files are real."""
    path = f"{nix.store_dir}/0c0zrkwjnlrhzdhmjhqsprjf8ia1p9ns-a"
    assert target.real_path(path) == f"{nix.real_store_dir}/0c0zrkwjnlrhzdhmjhqsprjf8ia1p9ns-a"
    assert (target.state_dir, target.log_dir) == (str(nix.state_dir), f"{nix.root}/log")
    assert LocalStore.open(Settings({"store": nix.uri}), {}).real_store_dir == str(nix.real_store_dir)


def test_a_setting_that_is_no_flag_is_an_error_at_once(nix: NixStore) -> None:
    """Not after a build has been accepted."""
    from hook.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="auto-optimise-store"):
        LocalStore.open(Settings({"auto-optimise-store": "maybe"}), nix.environ)


def test_derivations_are_read_from_the_real_store(built: NixStore, source: LocalStore) -> None:
    """Found by their logical name."""
    (drv_path,) = (path for (path,) in built.rows("select path from ValidPaths where path like '%-pair.drv'"))
    derivation = source.read_derivation(drv_path)
    outputs = built.rows(
        "select o.id, o.path from DerivationOutputs o join ValidPaths v on drv = v.id where v.path = ?", [drv_path]
    )
    assert [(name, output.path) for name, output in derivation.outputs] == sorted(outputs)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read derivation '.*': No such file or directory"),
        (b"Derive(", "error parsing derivation '.*': expected"),
        (b'Derive([("out","/elsewhere","","")],[],[],"","",[],[])', "error parsing derivation '.*': path '/elsewhere'"),
    ],
)
def test_a_derivation_that_cannot_be_used_is_named(target: LocalStore, content: bytes | None, message: str) -> None:
    """Missing, malformed, or with paths that are none."""
    drv_path = f"{target.store_dir}/0c0zrkwjnlrhzdhmjhqsprjf8ia1p9ns-x.drv"
    if content is not None:
        Path(target.real_path(drv_path)).write_bytes(content)
    with pytest.raises(StoreError, match=message):
        target.read_derivation(drv_path)


@pytest.mark.parametrize("algorithm", ["git:sha1", "blake3", "r:blake3"])
def test_addresses_that_cannot_be_checked_are_left_to_stock(target: LocalStore, algorithm: str) -> None:
    """Known before a build is accepted, not only when its output has arrived."""
    drv_path = f"{target.store_dir}/0c0zrkwjnlrhzdhmjhqsprjf8ia1p9ns-x.drv"
    output = drv_path.removesuffix(".drv")
    Path(target.real_path(drv_path)).write_text(f'Derive([("out","{output}","{algorithm}","00")],[],[],"","",[],[])')
    with pytest.raises(StockOnly, match=algorithm):
        target.read_derivation(drv_path)


def test_derivations_that_make_derivations_are_left_to_stock(target: LocalStore) -> None:
    """Nix verifies what such an output says before it registers it."""
    with pytest.raises(StockOnly, match="dynamic"):
        target.read_derivation(f"{target.store_dir}/0c0zrkwjnlrhzdhmjhqsprjf8ia1p9ns-x.drv.drv")


def test_opening_and_closing_touches_nothing(nix: NixStore) -> None:
    """A request that is declined at once costs no database and leaves no root."""
    with no_leaks():
        for _ in range(2):
            opened = nix.open()
            opened.close()
        opened = nix.open()
        opened.database.valid_among([])
        opened.close()
    assert list((nix.state_dir / "temproots").iterdir()) == []
