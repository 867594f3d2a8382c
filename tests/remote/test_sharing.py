"""Whose connection is shared, with how many, for how long, and what ssh is told about it.

A real ssh shares connections in tests/lab/test_sharing.py.
"""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hook.errors import Cancelled, ConnectionLost, MachineError, Trouble
from hook.remote import sharing as sharing_module
from hook.remote.child import Command
from hook.remote.sharing import JOIN_S, LONGEST_PATH, SESSIONS_EACH, Seat, Sharing, session_options
from hook.remote.watch import Deadline

ARGV = ("ssh", "b1", "-x", "-oControlPersist=60", "--", "nix-daemon", "--stdio")
NO_CIPHER = {"controlmaster": ["false"]}


class Clock:
    """A time that passes when the test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory with a short name: what pytest makes may be too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="ferry-") as directory:
        yield Path(directory)


def seat(sharing: Sharing, tmp_path: Path, destination: str = "there") -> Seat | None:
    return sharing.join(destination, (), str(tmp_path / "private"))


def path_of(taken: Seat | None) -> str:
    assert taken is not None
    (option,) = (word for word in taken.command(Command(ARGV, {})).argv if word.startswith("-oControlPath="))
    return option.partition("=")[2].strip('"').replace("%%", "%")


def test_ssh_is_told_before_anything_else(tmp_path: Path) -> None:
    """Of an option it takes the first value; the remote command stays as it is."""
    taken = Sharing().join("there", ("-oCiphers=x",), str(tmp_path / "private"))
    assert taken is not None
    argv = taken.command(Command(ARGV, {})).argv
    options = ("-oControlMaster=auto", f'-oControlPath="{path_of(taken)}"', "-oControlPersist=1", "-oCiphers=x")
    assert argv == (*ARGV[:3], *options, *ARGV[3:])
    directory = Path(path_of(taken)).parent
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_percent_sign_in_the_path_is_no_token(tmp_path: Path) -> None:
    taken = Sharing().join("there", (), str(tmp_path / "100%h"))
    assert "100%h/ssh/" in path_of(taken)


def test_no_two_brokers_mean_the_same_socket(tmp_path: Path) -> None:
    """A process may have the number of one that is gone, or that is in another namespace, and find its connection."""
    assert path_of(seat(Sharing(), tmp_path)) != path_of(seat(Sharing(), tmp_path))


@pytest.mark.parametrize("master", [["true"], ["auto"], ["ask"], None])
def test_who_shares_already_keeps_it(master: list[str] | None) -> None:
    """Whatever file or option it is in; also an ssh that does not say."""
    configuration = {"controlpath": ["/root/control"]} | ({} if master is None else {"controlmaster": master})
    assert session_options(Command(ARGV, {}), configuration) == (None, False)


def control_path(bin_dir: Path, status: int) -> Command:
    """A command whose ssh says by its status whether there is a control connection."""
    ssh = bin_dir / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$*" > {bin_dir}/asked\nexit {status}\n')
    ssh.chmod(0o755)
    return Command((str(ssh), *ARGV[1:]), {"PATH": "/usr/bin:/bin"})


def test_a_name_for_a_control_connection_is_none_yet(tmp_path: Path) -> None:
    """As in home-manager's default; who has begun one by hand keeps it, for as long as it is there."""
    configuration = NO_CIPHER | {"controlpath": ["/root/control"]}
    assert session_options(control_path(tmp_path, 0), configuration) == (None, True)
    assert session_options(control_path(tmp_path, 255), configuration) == ((), False)
    assert (tmp_path / "asked").read_text() == "b1 -x -oControlPersist=60 -Ocheck\n"
    absent = Command((str(tmp_path / "absent"), *ARGV[1:]), {})
    assert session_options(absent, configuration) == (None, True)
    assert session_options(absent, NO_CIPHER | {"controlpath": ["none"]}) == ((), False)


def test_nobody_joins_a_connection_that_is_old(tmp_path: Path) -> None:
    """A key that was taken out of authorized_keys since would still be good for it; those that are on it stay."""
    clock = Clock()
    sharing = Sharing(clock)
    before = seat(sharing, tmp_path)
    assert before is not None
    assert before.begun_at == clock.now
    clock.now += JOIN_S - 1
    assert path_of(seat(sharing, tmp_path)) == path_of(before)
    clock.now += 1
    after = seat(sharing, tmp_path)
    assert after is not None
    assert path_of(after) != path_of(before)
    assert after.begun_at == clock.now
    before.leave()
    assert path_of(seat(sharing, tmp_path)) == path_of(after)


def test_an_old_connection_without_a_session_is_not_begun_again(tmp_path: Path) -> None:
    """Ssh may still have it, and then it is as old as it was."""
    clock = Clock()
    sharing = Sharing(clock)
    before = seat(sharing, tmp_path)
    assert before is not None
    before.leave()
    clock.now += JOIN_S
    assert path_of(seat(sharing, tmp_path)) != path_of(before)


def test_a_connection_has_as_many_sessions_as_sshd_allows(tmp_path: Path) -> None:
    """The next one begins another; a place that becomes free is taken again."""
    sharing = Sharing()
    seats = [seat(sharing, tmp_path) for _ in range(SESSIONS_EACH + 1)]
    first, *others, last = map(path_of, seats)
    assert set(others) == {first}
    assert last != first
    assert seats[3] is not None
    seats[3].leave()
    assert path_of(seat(sharing, tmp_path)) == first
    assert path_of(seat(sharing, tmp_path)) == last


def open_together(sharing: Sharing, tmp_path: Path, error: Exception | None = None) -> list[Exception | None]:
    """What becomes of one session, and of two that come while it begins."""
    first, *others = (taken for _ in range(3) if (taken := seat(sharing, tmp_path)) is not None)
    begun = [threading.Event() for _ in others]
    outcomes: list[Exception | None] = [None] * 2

    def follow(number: int) -> None:
        def pause(seconds: float) -> None:
            begun[number].set()
            time.sleep(seconds)

        try:
            with others[number].opening(pause, Deadline(60)):
                assert leader_is_done
                others[number].leave()
        except (MachineError, AssertionError) as failed:
            outcomes[number] = failed

    leader_is_done = False
    threads = [threading.Thread(target=follow, args=(number,)) for number in range(2)]
    with suppress(OSError, MachineError), first.opening(pytest.fail, Deadline(60)):
        for thread in threads:
            thread.start()
        for event in begun:
            assert event.wait(60)
        leader_is_done = True
        if error is not None:
            raise error
    first.leave()
    for thread in threads:
        thread.join()
    return outcomes


def test_who_comes_while_the_first_one_logs_in_waits_for_it(tmp_path: Path) -> None:
    """And again, when all have left: the connection may have ended since."""
    sharing = Sharing()
    for _ in range(2):
        assert open_together(sharing, tmp_path) == [None, None]


def test_the_others_fail_with_the_first_one(tmp_path: Path) -> None:
    """A dead machine costs one time-out, not one after the other; for what is wrong with the first one only, none."""
    outcomes = open_together(Sharing(), tmp_path, ConnectionLost("gone", Trouble.TIMED_OUT))
    for error in outcomes:
        assert isinstance(error, ConnectionLost)
        assert (str(error), error.trouble) == ("gone", Trouble.TIMED_OUT)
    assert open_together(Sharing(), tmp_path, MachineError("muxclient: no")) == [None, None]
    assert open_together(Sharing(), tmp_path, OSError()) == [None, None]


def test_who_is_given_up_while_waiting_leaves(tmp_path: Path) -> None:
    """Its place is free again."""
    sharing = Sharing()
    seats = [seat(sharing, tmp_path) for _ in range(SESSIONS_EACH)]
    assert seats[-1] is not None

    def give_up(seconds: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled), seats[-1].opening(give_up, Deadline(60)):
        pytest.fail("it was not its turn")
    assert path_of(seat(sharing, tmp_path)) == path_of(seats[0])


def test_nobody_waits_for_a_first_one_that_never_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its directory cannot be made; somebody has come meanwhile."""
    sharing = Sharing()
    others: list[Seat | None] = []

    def full(*_: object, **__: object) -> None:
        monkeypatch.undo()
        others.append(seat(sharing, tmp_path))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "makedirs", full)
    assert seat(sharing, tmp_path) is None
    (other,) = others
    assert other is not None
    with other.opening(pytest.fail, Deadline(60)):
        pass


def test_nobody_waits_for_the_first_one_for_ever(tmp_path: Path) -> None:
    """However long that may take, on the clock of somebody who has come later Nix waits no longer than for itself."""
    sharing = Sharing()
    seats = [seat(sharing, tmp_path) for _ in range(SESSIONS_EACH)]
    assert seats[-1] is not None
    with (
        pytest.raises(MachineError, match=r"not ready after 0\.02 s") as error,
        seats[-1].opening(time.sleep, Deadline(0.02)),
    ):
        pytest.fail("it was not its turn")
    assert error.value.trouble is Trouble.TIMED_OUT
    assert path_of(seat(sharing, tmp_path)) == path_of(seats[0])


def test_destinations_have_nothing_in_common(tmp_path: Path) -> None:
    """Another user, key or agent is another connection."""
    sharing = Sharing()
    assert path_of(seat(sharing, tmp_path)) != path_of(seat(sharing, tmp_path, "elsewhere"))


def test_after_trouble_the_next_session_has_a_connection_of_its_own(tmp_path: Path) -> None:
    """The shared one may be dead without knowing it; the sessions on it may still end."""
    sharing = Sharing()
    before = seat(sharing, tmp_path)
    sharing.renew("there")
    sharing.renew("nowhere")
    assert path_of(seat(sharing, tmp_path)) != path_of(before)
    assert before is not None
    before.leave()


def test_a_state_directory_with_a_long_name_has_no_sockets(tmp_path: Path) -> None:
    """The kernel allows 108 bytes."""
    deep = tmp_path / ("d" * LONGEST_PATH)
    assert Sharing().join("there", (), str(deep)) is None


def test_a_directory_that_cannot_be_made_costs_only_the_sharing(tmp_path: Path) -> None:
    (tmp_path / "private").touch()
    assert seat(Sharing(), tmp_path) is None


def test_what_nobody_uses_is_forgotten_and_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every login of a user may have an agent of its own, and a broker may live for months."""
    sharing = Sharing()
    used, unused = seat(sharing, tmp_path), seat(sharing, tmp_path, "elsewhere")
    assert unused is not None
    unused.leave()
    monkeypatch.setattr(sharing_module, "FORGET_S", -1.0)
    sharing.tidy()
    assert path_of(seat(sharing, tmp_path)) == path_of(used)
    assert path_of(seat(sharing, tmp_path, "elsewhere")) != path_of(unused)
