"""Connections of a conversation: used again where that is safe, shared where ssh would lead, replaced when worn."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hook.config import Config
from hook.errors import MachineError, StoreError
from hook.machines.identity import Destination
from hook.protocol.worker import WorkerClient
from hook.remote import configurations, sshfiles
from hook.remote import pool as pool_module
from hook.remote import sharing as sharing_module
from hook.remote.child import Command
from hook.remote.configurations import Configuration
from hook.remote.connection import RENEW_BUILDS, Remote
from hook.remote.pool import Pool
from hook.remote.sharing import SESSIONS_EACH
from hook.remote.sshfiles import SshFiles
from hook.remote.watch import Deadline
from hook.values.limits import Limits
from tests.fakes import DAEMON
from tests.leaks import children
from tests.session.desk import (
    HOUR_S,
    REQUEST,
    Desk,
    connect,
    good,
    is_running,
    place_of,
)


def test_a_connection_is_used_again(desk: Desk) -> None:
    """By the next conversation; it then speaks for that one."""
    first = desk.conversation(good())
    place = place_of(first)
    remote = connect(first, place)
    first.give_back(remote)
    place.release()
    first.close()
    assert is_running(remote)
    second = desk.conversation(good())
    assert connect(second) is remote
    assert remote.stream.hangup_fd == desk.caller.hangup_fd


def test_a_lone_hook_keeps_no_connection(desk: Desk) -> None:
    """Nobody comes after it."""
    desk.lasting = False
    conversation = desk.conversation(good())
    remote = connect(conversation)
    conversation.give_back(remote)
    assert not is_running(remote)


def test_a_connection_that_fetches_nothing_any_more_is_not_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock has a connection for each build, so its machines always fetch what they can."""
    monkeypatch.setattr(WorkerClient, "stops_substituting", True)
    first = desk.conversation(good(jobs=2))
    other = connect(first)
    first.give_back(other)
    assert is_running(other)
    desk.settings["builders-use-substitutes"] = "true"
    second = desk.conversation(good(jobs=2))
    remote = connect(second)
    assert remote is not other
    second.give_back(remote)
    assert not is_running(remote)


def test_a_warm_connection_is_not_lost_when_the_build_is_refused(desk: Desk) -> None:
    """The derivation cannot be read: no fault of the machine's."""
    first = desk.conversation(good(jobs=2))
    remote = connect(first)
    first.give_back(remote)
    second = desk.conversation(good(jobs=2))

    def refuse() -> None:
        raise StoreError("unreadable")

    with pytest.raises(StoreError):
        second.connect(place_of(second), refuse)
    assert connect(desk.conversation(good(jobs=3))) is remote


def test_an_error_of_ours_while_ssh_connects_ends_ssh(desk: Desk) -> None:
    """Nothing of it may stay behind."""
    conversation = desk.conversation(good())
    before = children()
    started: set[str] = set()

    def refuse() -> None:
        started.update(children() - before)
        raise StoreError("unreadable")

    with pytest.raises(StoreError):
        conversation.connect(place_of(conversation), refuse)
    assert len(started) == 1
    assert not started & children()


SSH = """#!/bin/sh
case " $* " in
*" -V "*) echo "OpenSSH_9.2p1" >&2 ;;
*" -G "*) echo "controlmaster auto"; echo "hostname $WHERE"; echo "sendenv SENT_*"
  echo "proxycommand ${{PROXY-none}}" ;;
*) exec {daemon} ok ;;
esac
"""
"""One that shares by itself, asks a variable where to go, and sends some."""


@pytest.fixture
def ssh(tmp_path: Path, desk: Desk) -> None:
    """An `ssh` in PATH that leads to a scripted daemon."""
    program = tmp_path / "bin/ssh"
    program.parent.mkdir()
    program.write_text(SSH.format(daemon=" ".join(DAEMON)))
    program.chmod(0o755)
    desk.caller = replace(desk.caller, environ={**desk.caller.environ, "PATH": f"{program.parent}:/usr/bin:/bin"})


NO_SHARED_SESSION = """#!/bin/sh
case " $* " in
*" -V "*) ;;
*" -G "*) echo "controlmaster false" ;;
*ControlPath*) echo "muxclient: master hello exchange failed" >&2; exit 255 ;;
*) exec {daemon} ok ;;
esac
"""


@pytest.mark.usefixtures("ssh")
def test_where_sharing_fails_a_connection_of_its_own_does(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control connection may end at the very moment in which it is wanted."""
    monkeypatch.setattr(sharing_module, "LONGEST_PATH", 200)
    (tmp_path / "bin/ssh").write_text(NO_SHARED_SESSION.format(daemon=" ".join(DAEMON)))
    remote = connect(desk.conversation("ssh-ng://b1"))
    assert is_running(remote)
    assert list((tmp_path / "nix-ferry/ssh").iterdir()) == []


@pytest.mark.usefixtures("ssh")
def test_the_connect_timeout_is_configured(desk: Desk) -> None:
    """Five seconds are too short over a satellite."""
    desk.config = Config(connect_timeout_s=30)
    assert "-oConnectTimeout=30" in connect(desk.conversation("ssh-ng://b1")).route.argv


@pytest.mark.parametrize(
    ("line", "name", "same"),
    [
        ("ssh-ng://b1 - - 9", "SSH_AUTH_SOCK", False),
        ("ssh-ng://b1 - - 9", "WHERE", False),
        ("ssh-ng://b1 - - 9", "SENT_1", False),
        ("ssh-ng://b1 - - 9", "PWD", True),
        ("ssh-ng://b1 - - 9", "TERM", True),
        (good(jobs=9), "PWD", True),
        (good(jobs=9), "TERM", False),
    ],
    ids=["agent", "configuration", "sent", "directory", "terminal", "local directory", "local command"],
)
@pytest.mark.usefixtures("ssh")
def test_callers_share_a_connection_only_if_ssh_would_make_the_same_one(
    desk: Desk, line: str, name: str, same: bool
) -> None:
    """Whatever else is in their environments; a local command may look at any variable."""
    first = desk.conversation(line)
    remote = connect(first)
    first.give_back(remote)
    desk.caller = replace(desk.caller, environ={**desk.caller.environ, name: "other"})
    second = desk.conversation(line)
    other = connect(second)
    assert (other is remote) is same
    # Each finds its own again.
    second.give_back(other)
    assert connect(desk.conversation(line)) is other


@pytest.mark.usefixtures("ssh")
def test_a_program_on_the_way_may_look_at_any_variable(desk: Desk) -> None:
    """A cloud's ProxyCommand goes where its profile says; ssh itself knows nothing of that."""
    desk.caller = replace(desk.caller, environ={**desk.caller.environ, "PROXY": "nc"})
    first = desk.conversation("ssh-ng://b1 - - 9")
    remote = connect(first)
    first.give_back(remote)
    for name, same in (("SHLVL", True), ("AWS_PROFILE", False)):
        desk.caller = replace(desk.caller, environ={**desk.caller.environ, name: "other"})
        later = desk.conversation("ssh-ng://b1 - - 9")
        assert (connect(later) is remote) is same
        if same:
            later.give_back(remote)


SLOW = """#!/bin/sh
case " $* " in
*" -V "*) ;;
*" -G "*) read -r line < {gate}; echo "hostname b1" ;;
*) exec {daemon} ok ;;
esac
"""


@pytest.mark.usefixtures("ssh")
def test_nobody_waits_for_an_ssh_that_decides_by_the_moment(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it runs to decide takes its time for the connection already; nobody else gets that before it has said."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (tmp_path / "bin/ssh").write_text(SLOW.format(daemon=" ".join(DAEMON), gate=gate))
    monkeypatch.setattr(configurations, "ssh_files", lambda argv: SshFiles(momentary=True))
    monkeypatch.setattr(configurations, "TOGETHER_S", 3600)
    first = desk.conversation("ssh-ng://b1 - - 9")
    remote = connect(first)
    other = connect(desk.conversation("ssh-ng://b1 - - 9"))
    assert other is not remote
    # Both ask once.
    gate.write_text("\n")
    route = remote.route
    assert isinstance(route, Command)
    assert desk.configurations.renew(route, 60)
    first.give_back(remote)
    assert connect(desk.conversation("ssh-ng://b1 - - 9")) is remote


@pytest.mark.usefixtures("ssh")
def test_a_connection_that_is_not_known_to_lead_anywhere_is_not_kept(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it went may not be where ssh went when it said."""
    monkeypatch.setattr(configurations, "ssh_files", lambda argv: SshFiles(momentary=True))
    first = desk.conversation("ssh-ng://b1 - - 9")
    remote = connect(first)
    remote.destination = None
    remote.begun_at -= 3600
    first.give_back(remote)
    assert not is_running(remote)


THERE = Destination("there", None, (), Limits(), machines_substitute=False, state_dir="", longest_s=60.0)


class Momentary:
    """A configuration that decides by the moment: what ssh says of it now, and what it said too long ago."""

    def __init__(self, desk: Desk) -> None:
        conversation = desk.conversation("ssh-ng://b1 - - 9")
        remote = connect(conversation)
        assert isinstance(remote.route, Command)
        answer = desk.configurations.renew(remote.route, 60)
        assert answer is not None
        self.opener = conversation.contacts.connections._opener
        self.address = remote.address
        self.now = replace(answer, options=())
        self.late = replace(self.now, asked_at=answer.asked_at - 2 * HOUR_S)
        self.remotes: list[Remote] = []

    def open(self, configuration: Configuration, pause: Callable[[float], object] = pytest.fail) -> Remote:
        """Another connection, to be closed with the others."""
        with self.opener.begin(self.address, THERE, configuration, pause) as opening:
            self.remotes.append(opening.finish())
        return self.remotes[-1]

    def again(self, configuration: Configuration) -> Remote:
        """One in the background."""
        self.remotes.append(self.opener.again(self.address, THERE, configuration))
        return self.remotes[-1]


@pytest.fixture
def momentary(ssh: None, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Momentary]:
    """One to `b1`, where sessions of ssh may share a connection."""
    monkeypatch.setattr(configurations, "ssh_files", lambda argv: SshFiles(momentary=True))
    monkeypatch.setattr(sharing_module, "LONGEST_PATH", 200)
    # However slow this host is.
    monkeypatch.setattr(sharing_module, "JOIN_S", HOUR_S)
    for module in (configurations, pool_module):
        monkeypatch.setattr(module, "TOGETHER_S", HOUR_S)
    made = Momentary(desk)
    yield made
    for remote in made.remotes:
        remote.close()


def is_alone(remote: Remote) -> bool:
    """Whether it has logged in by itself, and nobody else's knowledge is its own."""
    return remote.login_at == remote.begun_at and remote.destination is None


def test_what_is_known_is_not_that_of_a_connection_which_may_lead_elsewhere(momentary: Momentary) -> None:
    """What ssh said a while ago of a configuration that decides by the moment says nothing of a connection made now."""
    alone = replace(momentary.now, options=None)
    first, second = momentary.open(alone), momentary.open(replace(momentary.late, options=None))
    third = momentary.again(alone)
    assert first.known is third.known
    assert first.known is not second.known
    assert (first.destination, second.destination, third.destination) == (THERE, None, THERE)
    with pytest.raises(MachineError, match="elsewhere"):
        momentary.again(momentary.late)


def test_nobody_shares_a_connection_that_may_lead_elsewhere(momentary: Momentary) -> None:
    """What is asked next may say another destination, for which this session would be kept."""
    first, second = momentary.open(momentary.now), momentary.open(momentary.now)
    assert first.login_at == second.login_at < second.begun_at
    late = momentary.open(momentary.late)
    assert is_alone(late)
    assert late.known is not first.known


def test_nobody_begins_one_for_others_that_may_lead_elsewhere(momentary: Momentary) -> None:
    """Its last session is over, and ssh may have ended it since."""
    momentary.open(momentary.now).close()
    assert is_alone(momentary.open(momentary.late))
    again = momentary.open(momentary.now)
    assert (again.login_at < again.begun_at, again.destination) == (True, THERE)


def test_who_has_waited_too_long_for_a_connection_to_share_makes_one(
    desk: Desk, momentary: Momentary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the other login fails, ssh makes one of its own: by then it may lead elsewhere."""
    other = desk.sharing.join(THERE, (), momentary.opener.private_dir)
    assert other is not None

    def log_in(_: float) -> None:
        with other.opening(pytest.fail, Deadline(60)):
            monkeypatch.setattr(configurations, "TOGETHER_S", -1.0)

    remote = momentary.open(momentary.now, log_in)
    assert is_alone(remote)
    assert remote.known is not desk.pool.known(THERE)
    monkeypatch.setattr(configurations, "TOGETHER_S", HOUR_S)
    # It has left its place.
    other.leave()
    for _ in range(SESSIONS_EACH):
        momentary.open(momentary.now)
    assert len({each.login_at for each in momentary.remotes}) == 2


@pytest.fixture
def ssh_config(ssh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one file of configuration that ssh reads."""
    path = tmp_path / "config"
    path.write_text("")
    monkeypatch.setattr(configurations, "ssh_files", lambda argv: SshFiles({str(path): sshfiles._stamp(str(path))}))
    return path


def test_a_changed_configuration_is_noticed_at_once(desk: Desk, ssh_config: Path) -> None:
    """Also if ssh says the same of it: a machine on the way may be another one."""
    first = desk.conversation("ssh-ng://b1 - - 9")
    remote = connect(first)
    first.give_back(remote)
    ssh_config.write_text("Host jump\n  HostName elsewhere\n")
    assert connect(desk.conversation("ssh-ng://b1 - - 9")) is not remote


def test_what_comes_from_where_ssh_led_before_is_no_proof(desk: Desk, ssh_config: Path) -> None:
    """A build goes on there, and says something all the time; the next one goes where ssh leads now."""
    desk.max_jobs = 1
    line = "ssh-ng://b1 - - 9"
    first = desk.conversation(line)
    remote = connect(first)
    second = desk.conversation(line)
    assert second.may_accept_first(REQUEST, place_of(second))
    ssh_config.write_text("Host b1\n  HostName elsewhere\n")
    remote.client.query_valid_paths([], substitute=False)
    third = desk.conversation(line)
    assert not third.may_accept_first(REQUEST, place_of(third))


@pytest.mark.parametrize(("age", "kept"), [("0", False), ("3600", True)])
def test_the_age_that_an_address_allows_is_honoured(desk: Desk, age: str, kept: bool) -> None:
    """As stock does with the connections of one build."""
    line = good(jobs=9).replace("?", f"?max-connection-age={age}&")
    first = desk.conversation(line)
    remote = connect(first)
    first.give_back(remote)
    assert (connect(desk.conversation(line)) is remote) is kept


def test_a_line_that_allows_less_does_not_get_the_connection_of_one_that_allows_more(desk: Desk) -> None:
    """Both lead to the same machine; each has its own kept."""
    hasty, patient = (good(jobs=9).replace("?", f"?max-connection-age={age}&") for age in (9, 3600))
    first = desk.conversation(patient)
    remote = connect(first)
    first.give_back(remote)
    assert connect(desk.conversation(hasty)) is not remote
    assert connect(desk.conversation(patient)) is remote


def test_an_age_that_is_no_number_costs_that_machine(desk: Desk) -> None:
    """As with stock."""
    conversation = desk.conversation(good().replace("?", "?max-connection-age=soon&"))
    with pytest.raises(MachineError, match="parameter 'max-connection-age' is 'soon', expected a whole number"):
        connect(conversation)


@pytest.mark.usefixtures("ssh")
def test_a_worn_connection_is_followed_by_one_like_it(desk: Desk) -> None:
    """Opened when the build that used it is over, and its conversation, too; the next build finds it."""
    opened: list[Callable[[], object]] = []
    desk.pool = Pool(run=opened.append)
    first = desk.conversation("ssh-ng://b1 - - 9")
    remote = connect(first)
    remote.builds = RENEW_BUILDS
    first.give_back(remote)
    first.close()
    for work in opened:
        work()
    assert not is_running(remote)
    other = connect(desk.conversation("ssh-ng://b1 - - 9"))
    assert other.destination == remote.destination
    assert other.builds == 1
    assert len(opened) == 1


@pytest.mark.usefixtures("ssh")
def test_a_connection_is_not_followed_where_ssh_would_lead_elsewhere_now(desk: Desk, tmp_path: Path) -> None:
    opened: list[Callable[[], object]] = []
    desk.pool = Pool(run=opened.append)
    first = desk.conversation("ssh-ng://b1 - - 9")
    remote = connect(first)
    remote.builds = RENEW_BUILDS
    first.give_back(remote)
    ssh = tmp_path / "bin/ssh"
    ssh.write_text(ssh.read_text().replace("hostname $WHERE", "hostname elsewhere"))
    desk.configurations._answers.clear()
    for work in opened:
        work()
    assert desk.pool.idle() == {remote.name: 1}
    assert is_running(remote)
