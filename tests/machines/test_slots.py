"""Slot and upload locks, against other descriptors, other processes and stock's own file names."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from hook.errors import Cancelled, ConfigurationError
from hook.machines.slots import CHOOSING_PAUSE_S, GAP, LONGEST_PAUSE_S, MOST_SLOTS, BusyError, Slot, SlotTable
from tests import stockhook
from tests.lab.host import Host
from tests.leaks import descriptors, no_leaks

STEM = "ssh-ng:__b1"

OTHER_PROCESS = """
import sys
from hook.machines.slots import SlotTable
table = SlotTable(sys.argv[1])
with table.selection():
    slot, load = table.probe(sys.argv[2], int(sys.argv[3]))
print(slot is not None, load, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def table(tmp_path: Path) -> SlotTable:
    return SlotTable(str(tmp_path))


@contextmanager
def held(tmp_path: Path, *names: str) -> Iterator[None]:
    """Lock files as another hook holds them."""
    directory = tmp_path / "current-load"
    directory.mkdir(exist_ok=True)
    with ExitStack() as stack:
        for name in names:
            fcntl.flock(stack.enter_context((directory / name).open("w")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def taken(table: SlotTable, max_jobs: int) -> Slot:
    """A slot of an idle machine."""
    with table.selection():
        slot, load = table.probe(STEM, max_jobs)
    assert slot is not None
    assert load == 0
    return slot


@pytest.mark.parametrize(
    ("busy", "kept", "load"),
    [([], 0, 0), ([0], 1, 1), ([1], 0, 1), ([0, 2], 1, 2), ([0, 1], 2, 2), ([1, 2], 0, 2), ([0, 1, 2], None, 3)],
)
def test_the_first_free_slot_is_kept_and_the_busy_ones_counted(
    table: SlotTable, tmp_path: Path, busy: list[int], kept: int | None, load: int
) -> None:
    """All slots are looked at, also those behind a free one."""
    with held(tmp_path, *(f"{STEM}-{number}" for number in busy)), table.selection():
        slot, counted = table.probe(STEM, 3)
        files = [tmp_path / "current-load" / f"{STEM}-{number}" for number in range(3)]
        locked = [number for number, file in enumerate(files) if file.exists() and is_locked(file)]
    assert counted == load
    assert (slot is None) == (kept is None)
    assert locked == sorted([*busy, *([] if kept is None else [kept])])
    if slot is not None:
        slot.release()


@pytest.mark.parametrize("busy", [[], [0], [1, 2], [0, 70, 129]])
@pytest.mark.parametrize("max_jobs", [0, 1, 3, 200])
def test_who_only_looks_counts_the_same_and_makes_nothing(
    table: SlotTable, tmp_path: Path, busy: list[int], max_jobs: int
) -> None:
    """Not even the directory; a slot without a file is free."""
    assert table.busy(STEM, max_jobs) == 0
    assert list(tmp_path.iterdir()) == []
    with held(tmp_path, *(f"{STEM}-{number}" for number in busy)):
        for number in range(130):
            (tmp_path / "current-load" / f"{STEM}-{number}").touch()
        before = sorted(tmp_path.rglob("*"))
        assert table.busy(STEM, max_jobs) == len([number for number in busy if number < max_jobs])
        assert sorted(tmp_path.rglob("*")) == before
        with table.selection():
            slot, load = table.probe(STEM, max_jobs)
        assert load == len([number for number in busy if number < max_jobs])
        if slot is not None:
            slot.release()


def test_who_only_looks_waits_for_those_who_choose(
    table: SlotTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would be taken for a build by them; and not for ever."""
    pauses = Pauses()
    monkeypatch.setattr(time, "sleep", pauses)
    with held(tmp_path, "main-lock"), no_leaks(), pytest.raises(BusyError, match=r"held 'main-lock' in .* for 10 s"):
        table.busy(STEM, 1)
    assert sum(pauses.taken) == pytest.approx(10, abs=0.1)


def test_a_line_with_very_many_jobs_costs_nothing(table: SlotTable, tmp_path: Path) -> None:
    """Four thousand million files would: only slots that are used have one."""
    with held(tmp_path, f"{STEM}-0"):
        for expected in (1, 2, 3):
            with table.selection():
                slot, load = table.probe(STEM, (1 << 32) - 1)
            assert slot is not None
            assert load == 1
            assert table.busy(STEM, (1 << 32) - 1) == 2
            slot.release()
            assert len(list((tmp_path / "current-load").iterdir())) == 3, expected


def test_no_more_slots_are_looked_at_than_anybody_uses(table: SlotTable, tmp_path: Path) -> None:
    """Also where somebody else has made files for very many; whoever looks long notices that nobody waits for it."""
    (tmp_path / "current-load").mkdir()
    for number in range(MOST_SLOTS + 1):
        (tmp_path / "current-load" / f"{STEM}-{number}").touch()
    looks: list[None] = []
    with held(tmp_path, f"{STEM}-{MOST_SLOTS - 1}", f"{STEM}-{MOST_SLOTS}"), table.selection():
        slot, load = table.probe(STEM, MOST_SLOTS + 1, lambda: looks.append(None))
    assert slot is not None
    assert load == 1
    assert len(looks) == MOST_SLOTS // GAP
    slot.release()

    def gone() -> None:
        raise Cancelled("nobody waits")

    with table.selection(), no_leaks(), pytest.raises(Cancelled):
        table.probe(STEM, MOST_SLOTS, gone)


def test_a_machine_without_jobs_has_no_slots(table: SlotTable) -> None:
    """Max jobs 0 is able but never free."""
    with table.selection():
        assert table.probe(STEM, 0) == (None, 0)


def test_files_are_as_stock_makes_them(table: SlotTable, tmp_path: Path) -> None:
    """Empty, for their owner alone, in a directory that others may list."""
    taken(table, 2).release()
    with table.upload_lock("ssh-ng://b1", 1):
        pass
    directory = tmp_path / "current-load"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    names = ["main-lock", f"{STEM}-0", f"{STEM}.upload-lock"]
    assert sorted(file.name for file in directory.iterdir()) == names
    for file in directory.iterdir():
        assert (stat.S_IMODE(file.stat().st_mode), file.stat().st_size) == (0o600, 0)


def test_nobody_else_may_write_to_the_directory_whatever_the_umask(table: SlotTable, tmp_path: Path) -> None:
    """Stock makes it with what the umask leaves of all rights; who can write there can keep all builds waiting."""
    before = os.umask(0)
    try:
        taken(table, 1).release()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "current-load").stat().st_mode) == 0o755


def test_a_released_slot_is_free_and_may_be_released_again(table: SlotTable, tmp_path: Path) -> None:
    """Several ways lead out of a build, and each of them lets go."""
    with taken(table, 1) as slot:
        assert is_locked(tmp_path / "current-load" / f"{STEM}-0")
    assert not is_locked(tmp_path / "current-load" / f"{STEM}-0")
    slot.release()
    slot.touch()
    taken(table, 1).release()


def test_touching_a_slot_sets_its_time_to_now(table: SlotTable, tmp_path: Path) -> None:
    """Stock does it when a build starts, so the file tells when a slot was last used."""
    slot = taken(table, 1)
    file = tmp_path / "current-load" / f"{STEM}-0"
    os.utime(file, (1, 1))
    slot.touch()
    assert file.stat().st_mtime > 1
    slot.release()


def test_no_child_inherits_a_lock(table: SlotTable, tmp_path: Path) -> None:
    """A left-over ssh would keep the slot busy for ever."""
    with table.selection(), table.upload_lock("ssh://b1", 1):
        slot, _ = table.probe(STEM, 1)
        opened = [fd for fd, path in descriptors().items() if path.startswith(str(tmp_path))]
        assert len(opened) == 3
        assert not any(os.get_inheritable(fd) for fd in opened)
    assert slot is not None
    slot.release()


def test_two_processes_share_the_slots_of_a_machine(table: SlotTable, tmp_path: Path) -> None:
    """Each process holds its slot until it ends, and sees the others' as load."""
    argv = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path), STEM, "2"]
    with ExitStack() as stack:
        others = [stack.enter_context(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))]
        assert line_of(others[0]) == "True 0"
        others.append(
            stack.enter_context(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        )
        assert line_of(others[1]) == "True 1"
        with table.selection():
            assert table.probe(STEM, 2) == (None, 2)
        # However a process ends, the kernel frees what it held.
        others[0].kill()
        others[0].wait()
        with table.selection():
            slot, load = table.probe(STEM, 2)
        assert slot is not None
        assert load == 1
        slot.release()
        others[1].communicate("")


def line_of(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_the_main_lock_keeps_others_from_probing(table: SlotTable, tmp_path: Path) -> None:
    """Two hooks probing at once would see each other's passing locks as load."""
    with ExitStack() as other:
        other.enter_context(held(tmp_path, "main-lock"))
        pauses = Pauses(at=12, action=other.close)
        with table.selection(pauses):
            assert is_locked(tmp_path / "current-load" / "main-lock")
    assert len(pauses.taken) == 12
    assert pauses.taken[0] <= 0.001
    assert pauses.taken[-1] == CHOOSING_PAUSE_S


def test_who_waits_to_choose_looks_at_its_caller(table: SlotTable, tmp_path: Path) -> None:
    """A stopped hook may hold the lock for ever."""

    def gone(_: float) -> None:
        raise Cancelled("nobody waits")

    with held(tmp_path, "main-lock"), no_leaks(), pytest.raises(Cancelled), table.selection(gone):
        pass


def test_the_wait_to_choose_may_have_a_bound(table: SlotTable, tmp_path: Path) -> None:
    """Nix does nothing else while it waits for an answer."""
    pauses = Pauses()
    expected = f"another hook has held 'main-lock' in '{tmp_path}/current-load' for 3 s"
    with held(tmp_path, "main-lock"), no_leaks(), pytest.raises(BusyError, match=expected), table.selection(pauses, 3):
        pass
    assert sum(pauses.taken) == pytest.approx(3, abs=0.1)


def test_an_error_frees_what_was_locked(table: SlotTable, tmp_path: Path) -> None:
    """The second slot cannot be opened; the first must not stay locked."""
    directory = tmp_path / "current-load"
    with table.selection(), no_leaks():
        (directory / f"{STEM}-1").mkdir()
        with pytest.raises(ConfigurationError, match=f"cannot lock '{STEM}-1' in '{directory}': Is a directory"):
            table.probe(STEM, 3)
    assert not is_locked(directory / f"{STEM}-0")
    assert not is_locked(directory / "main-lock")


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """For example for a user who may not write to the store's state."""
    missing = tmp_path / "missing"
    expected = f"cannot lock 'main-lock' in '{missing}/current-load': No such file or directory"
    with pytest.raises(ConfigurationError, match=expected), SlotTable(str(missing)).selection():
        pass


def test_no_link_is_followed(table: SlotTable, tmp_path: Path) -> None:
    """Stock's directory may be open to others: root must not create a file wherever they want."""
    directory = tmp_path / "current-load"
    directory.mkdir()
    (directory / f"{STEM}-0").symlink_to(tmp_path / "elsewhere")
    for look in (table.probe, table.busy):
        with pytest.raises(ConfigurationError, match="cannot lock"):
            look(STEM, 1)
    assert not (tmp_path / "elsewhere").exists()


def test_a_failing_lock_is_reported(table: SlotTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems without locks exist; treating them as busy would postpone for ever."""

    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with table.selection():
        monkeypatch.setattr(fcntl, "flock", refuse)
        expected = f"cannot lock '{STEM}-0' in .*: No locks available"
        with no_leaks(), pytest.raises(ConfigurationError, match=expected):
            table.probe(STEM, 1)
    expected = "cannot lock 'main-lock' in .*: No locks available"
    with no_leaks(), pytest.raises(ConfigurationError, match=expected), table.selection():
        pass


def test_a_machine_whose_name_is_too_long_for_a_slot_is_named(table: SlotTable) -> None:
    """Stock has no way out either."""
    stem = "x" * 260
    with (
        table.selection(),
        pytest.raises(ConfigurationError, match=f"cannot lock '{stem}-0' in .*: File name too long"),
    ):
        table.probe(stem, 1)


class Pauses:
    """Stands for the clock: remembers each pause, and does something at one of them."""

    def __init__(self, at: int = -1, action: Callable[[], object] = lambda: None) -> None:
        self.taken: list[float] = []
        self._at = at
        self._action = action

    def __call__(self, pause_s: float) -> None:
        self.taken.append(pause_s)
        if len(self.taken) == self._at:
            self._action()


def test_a_free_upload_lock_is_had_at_once(table: SlotTable, tmp_path: Path) -> None:
    """Held inside the block, free behind it."""
    pauses = Pauses()
    with table.selection():
        pass
    with table.upload_lock("ssh-ng://b1", 10, pause=pauses) as obtained:
        assert obtained
        assert is_locked(tmp_path / "current-load" / f"{STEM}.upload-lock")
    assert not is_locked(tmp_path / "current-load" / f"{STEM}.upload-lock")
    assert pauses.taken == []


def test_an_upload_lock_is_had_when_it_is_freed(table: SlotTable, tmp_path: Path) -> None:
    """Looked at again and again, less and less often, but at least once a second."""
    with ExitStack() as other:
        other.enter_context(held(tmp_path, f"{STEM}.upload-lock"))
        pauses = Pauses(at=12, action=other.close)
        with table.upload_lock("ssh-ng://b1", 900, pause=pauses) as obtained:
            assert obtained
    assert len(pauses.taken) == 12
    assert pauses.taken == sorted(pauses.taken)
    assert pauses.taken[-1] == LONGEST_PAUSE_S


@pytest.mark.parametrize("timeout_s", [0, 0.005, 0.1, 3, 900])
def test_waiting_for_an_upload_lock_has_a_bound(table: SlotTable, tmp_path: Path, timeout_s: float) -> None:
    """Then it goes on without: stock means to, but its alarm does not end flock."""
    pauses = Pauses()
    with (
        held(tmp_path, f"{STEM}.upload-lock"),
        table.upload_lock("ssh-ng://b1", timeout_s, pause=pauses) as obtained,
    ):
        assert not obtained
    assert sum(pauses.taken) == pytest.approx(timeout_s)


def test_the_wait_is_announced_and_over_before_the_upload(table: SlotTable, tmp_path: Path) -> None:
    """The activity must not look as if the upload itself were waiting."""
    events: list[str] = []

    @contextmanager
    def waiting() -> Iterator[None]:
        events.append("waiting")
        yield
        events.append("done")

    with held(tmp_path, f"{STEM}.upload-lock"):
        pauses = Pauses(at=1, action=lambda: events.append("pause"))
        with table.upload_lock("ssh-ng://b1", 0.001, waiting(), pause=pauses):
            events.append("upload")
    assert events == ["waiting", "pause", "done", "upload"]


def test_an_upload_lock_with_a_long_name_has_stocks_short_one(table: SlotTable, tmp_path: Path) -> None:
    """MD5 in base64, which has slashes too: printf %s URI | openssl md5 -binary | base64 | tr / _"""
    uri = "ssh-ng://" + "y" * 300
    with table.selection():
        pass
    with table.upload_lock(uri, 1):
        locked = [file.name for file in (tmp_path / "current-load").iterdir() if file.name != "main-lock"]
    digest = subprocess.run(
        ["sh", "-c", 'printf %s "$1" | openssl md5 -binary | base64 | tr / _', "sh", uri],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert locked == [f"{digest}.upload-lock"]


@pytest.mark.lab
def test_the_stock_hook_sees_our_slots_as_busy(builder: Host) -> None:
    """And asks Nix to try later, where it would otherwise connect."""
    ours = SlotTable(str(stockhook.fresh_state(builder)))
    with ours.selection():
        first, _ = ours.probe("ssh:__b1", 2)
        second, _ = ours.probe("ssh:__b1", 2)
    assert first is not None
    assert second is not None
    with first:
        with second:
            stock = stockhook.ask(builder, "b1 - - 2")
            assert (stock.tried, stock.answers) == ([], ["# postpone"])
        stock = stockhook.ask(builder, "b1 - - 2")
        assert (stock.tried, stock.answers) == (["ssh://b1"], ["# decline"])
