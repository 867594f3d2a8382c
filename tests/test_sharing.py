"""Whose connection is shared, with how many, and what ssh is told about it.

`ssh` is a script that answers `-G` as ssh does; a real one shares connections in tests/lab/test_sharing.py.
"""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hook import sharing as sharing_module
from hook.errors import Cancelled, ConnectionLost, MachineError
from hook.sharing import LONGEST_PATH, SESSIONS_EACH, Seat, Sharing
from hook.transport import Command
from hook.trouble import Trouble

NO_SHARING = "controlmaster false"
ARGV = ("ssh", "b1", "-x", "-oControlPersist=60", "--", "nix-daemon", "--stdio")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory with a short name: what pytest makes may be too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="ferry-") as directory:
        yield Path(directory)


def command(bin_dir: Path, configuration: str = NO_SHARING, status: int = 0) -> Command:
    """A command whose ssh has this configuration; every question for it is written to `asked`."""
    bin_dir.mkdir(exist_ok=True)
    ssh = bin_dir / "ssh"
    ssh.write_text(
        f"#!/bin/sh\necho \"$*\" >> {bin_dir}/asked\ncat <<'end'\nuser root\n{configuration}\nend\nexit {status}\n"
    )
    ssh.chmod(0o755)
    return Command((str(ssh), *ARGV[1:]), {"PATH": "/usr/bin:/bin"})


def seat(sharing: Sharing, tmp_path: Path, destination: str = "there", **options: str | int) -> Seat | None:
    return sharing.join(destination, command(tmp_path / "bin", **options), str(tmp_path / "private"))  # type: ignore[arg-type]


def path_of(taken: Seat | None) -> str:
    assert taken is not None
    (option,) = (word for word in taken.command(Command(ARGV, {})).argv if word.startswith("-oControlPath="))
    return option.partition("=")[2].strip('"').replace("%%", "%")


def test_ssh_is_told_before_anything_else(tmp_path: Path) -> None:
    """Of an option it takes the first value; the remote command stays as it is."""
    taken = seat(Sharing(), tmp_path)
    assert taken is not None
    argv = taken.command(Command(ARGV, {})).argv
    options = ("-oControlMaster=auto", f'-oControlPath="{path_of(taken)}"', "-oControlPersist=1")
    assert argv == (*ARGV[:3], *options, *ARGV[3:])
    directory = Path(path_of(taken)).parent
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_percent_sign_in_the_path_is_no_token(tmp_path: Path) -> None:
    taken = Sharing().join("there", command(tmp_path / "bin"), str(tmp_path / "100%h"))
    assert "100%h/ssh/" in path_of(taken)


@pytest.mark.parametrize(
    "configuration",
    [
        "controlmaster auto\ncontrolpath /root/control",
        "controlmaster false\ncontrolpath /root/control",
        "controlmaster ask",
    ],
)
def test_who_shares_already_keeps_it(tmp_path: Path, configuration: str) -> None:
    """Ssh says so itself, whatever file or option it is in; it is asked once."""
    sharing = Sharing()
    for _ in range(2):
        assert seat(sharing, tmp_path, configuration=configuration) is None
    assert (tmp_path / "bin/asked").read_text() == "b1 -x -oControlPersist=60 -G\n"


def test_an_ssh_that_cannot_say_what_it_would_do_is_left_alone(tmp_path: Path) -> None:
    """An old one, or somebody's script."""
    assert seat(Sharing(), tmp_path, status=1) is None
    assert seat(Sharing(), tmp_path, configuration="hello") is None
    assert Sharing().join("there", Command(("/nonexistent/ssh", *ARGV[1:]), {}), str(tmp_path)) is None


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
            with others[number].opening(pause):
                assert leader_is_done
                others[number].leave()
        except (MachineError, AssertionError) as failed:
            outcomes[number] = failed

    leader_is_done = False
    threads = [threading.Thread(target=follow, args=(number,)) for number in range(2)]
    with suppress(OSError, MachineError), first.opening(pytest.fail):
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

    with pytest.raises(Cancelled), seats[-1].opening(give_up):
        pytest.fail("it was not its turn")
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
    assert Sharing().join("there", command(tmp_path / "bin"), str(deep)) is None


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
