"""What is said of a machine when something about it is known to be so; tests/lab/test_doctor.py breaks real ones."""

from dataclasses import replace

import pytest

from hook.cli.doctor.check import Check, Level
from hook.cli.doctor.machine import Findings, check_machine, shown
from hook.cli.probe.condition import Condition, Shell
from hook.cli.probe.ping import Pong
from hook.cli.probe.way import Way
from hook.errors import Trouble
from tests.machines.test_schedule import machine

NAME = "ssh-ng://box"
WAY = Way("192.0.2.7", 22, "root", open_at="192.0.2.7")
PONG = Pong(NAME, 0.138, 0.001, "1.38", "2.34.8", True)
CONDITION = Condition(0, 3 << 20, ("x86_64-linux",), frozenset({"kvm"}))
FOUND = Findings(machine(NAME), WAY, PONG, CONDITION, None, "/etc/resolv.conf: 192.0.2.1", "root", as_daemon=True)


def failed(trouble: Trouble, error: str = "ssh says so", way: Way = WAY) -> Findings:
    return replace(FOUND, pong=Pong(NAME, error=error, trouble=trouble), condition=None, way=way)


def last(found: Findings) -> Check:
    """The step it does not get over."""
    *before, check = check_machine(found)
    assert all(check.level is not Level.WRONG for check in before)
    assert check.level is Level.WRONG
    return check


def test_a_machine_that_is_well_is_one_line() -> None:
    """Or as many as it has checks."""
    checks = check_machine(FOUND)
    (line,) = shown(checks, verbose=False)
    text = "Nix 2.34.8, protocol 1.38, connected in 138 ms; builds x86_64-linux with kvm; 3.0 GiB free"
    assert (line.title, line.text) == (NAME, text)
    assert shown(checks, verbose=True) == checks
    assert [check.check for check in checks] == [
        *("dns", "tcp", "host-key", "login", "stdout", "nix", "store", "trust", "systems", "clock", "disk")
    ]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/root/control", "builds go through the control connection '/root/control', as ssh's configuration has it"),
        ("none", "each build logs in by itself, as ssh's configuration has it"),
    ],
)
def test_who_shares_connections_by_ssh_is_told(path: str, text: str) -> None:
    """It may be why builds are slower than they could be."""
    (line,) = shown(check_machine(replace(FOUND, way=replace(WAY, shares=path))), verbose=False)
    assert text in line.text.split("; ")


def test_of_a_machine_that_is_not_well_only_that_is_shown() -> None:
    checks = check_machine(replace(FOUND, condition=replace(CONDITION, clock_off_s=-7200, free_kib=4096)))
    assert [(check.check, check.level) for check in shown(checks, verbose=False)] == [
        ("clock", Level.NOTE),
        ("disk", Level.NOTE),
    ]


@pytest.mark.parametrize(
    ("trouble", "step"),
    [
        (Trouble.UNRESOLVED, "dns"),
        (Trouble.REFUSED, "tcp"),
        (Trouble.TIMED_OUT, "tcp"),
        (Trouble.HOST_KEY, "host-key"),
        (Trouble.AUTHENTICATION, "login"),
        (Trouble.NO_NIX, "nix"),
        (Trouble.LOST, "nix"),
        (Trouble.OWN_STORE, "store"),
    ],
)
def test_a_failure_belongs_to_its_step(trouble: Trouble, step: str) -> None:
    """In the words of whoever knows most, and with the line of the machine."""
    check = last(failed(trouble))
    assert check.check == step
    assert check.text.endswith("ssh says so (builders)")


def test_an_open_port_with_nobody_to_talk_to_is_said_to_be_open() -> None:
    """Its sshd turns connections away, or is not one."""
    assert last(failed(Trouble.REFUSED)).text == "192.0.2.7 port 22 is open, but ssh says so (builders)"


def test_what_was_seen_from_here_counts_for_name_and_port() -> None:
    """With all addresses, and what to do about it."""
    check = last(failed(Trouble.UNRESOLVED, way=Way("box.lan", unresolved="Name or service not known")))
    assert "cannot resolve 'box.lan' (HostName of 'box' in ssh's configuration): " in check.text
    assert "Name or service not known (/etc/resolv.conf: 192.0.2.1)" in check.text
    refused = Way("box", 23, closed=(("192.0.2.7", "Connection refused"), ("2001:db8::7", "Connection refused")))
    check = last(failed(Trouble.REFUSED, way=refused))
    assert "192.0.2.7 port 23: Connection refused, 2001:db8::7 port 23: Connection refused" in check.text
    assert check.fix.startswith("start sshd there")
    silent = Way("box", 22, closed=(("192.0.2.7", "no answer within 5 s"),))
    assert "firewall keeps port 22" in last(failed(Trouble.TIMED_OUT, way=silent)).fix


def test_a_name_that_only_ssh_gets_on_without_is_a_note() -> None:
    """It has a connection already."""
    first, *others = check_machine(replace(FOUND, way=Way("box", unresolved="Name or service not known")))
    assert (first.check, first.level) == ("dns", Level.NOTE)
    assert all(check.level is Level.OK for check in others)


def test_what_goes_through_another_machine_is_left_to_it() -> None:
    dns, tcp, *_ = check_machine(replace(FOUND, way=Way("box", 22, "root", through="ProxyJump bastion")))
    assert (dns.level, dns.text) == (Level.OK, "'box' is left to ProxyJump bastion, and not looked up here")
    assert (tcp.level, "through ProxyJump bastion" in tcp.text) == (Level.OK, True)


def test_what_somebody_else_than_the_daemon_cannot_do_is_a_note() -> None:
    *_, check = check_machine(replace(failed(Trouble.AUTHENTICATION), as_daemon=False, user="alice"))
    assert (check.level, check.text.startswith("not for you: ")) == (Level.NOTE, True)
    assert "as root" in check.fix


def test_nothing_is_wrong_with_a_machine_that_is_out_of_use() -> None:
    """Which comes first, with what ends it."""
    state, *others = check_machine(replace(failed(Trouble.REFUSED), disabled="disabled by the user"))
    assert (state.check, state.level, state.fix) == ("state", Level.NOTE, f"nix-ferry machine enable '{NAME}'")
    assert [check.check for check in others if check.level is Level.NOTE] == ["tcp"]
    assert all(check.level is not Level.WRONG for check in others)


def test_a_machine_that_is_not_reached_by_ssh_has_fewer_steps() -> None:
    checks = check_machine(replace(FOUND, way=None, condition=None))
    assert [check.check for check in checks] == ["nix", "store", "trust"]


@pytest.mark.parametrize("trouble", list(Trouble))
@pytest.mark.parametrize("way", [WAY, None])
def test_whatever_is_wrong_comes_with_what_helps(trouble: Trouble, way: Way | None) -> None:
    """Known or not, by ssh or not."""
    assert last(replace(failed(trouble), way=way)).fix


def test_what_is_known_of_a_cause_is_the_advice() -> None:
    """In its place, not twice; with the name of the user."""
    pong = Pong(NAME, error="no room (chage USER)", trouble=Trouble.OTHER, advice="chage USER")
    check = last(replace(FOUND, pong=pong, way=replace(WAY, user="joe"), condition=None))
    assert (check.text, check.fix) == ("no room (builders)", "chage joe")


def test_a_key_that_is_no_use_is_named_where_it_matters() -> None:
    """A login that was refused, and one that another key opened."""
    bad = replace(WAY, key="the key '/k' is not there", key_fix="make it")
    check = last(failed(Trouble.AUTHENTICATION, way=bad))
    assert (check.text, check.fix) == ("ssh says so; the key '/k' is not there (builders)", "make it")
    found = replace(FOUND, machine=machine(f"{NAME} - /k"), way=bad)
    (note,) = [check for check in check_machine(found) if check.level is not Level.OK]
    assert (note.check, note.fix) == ("login", "make it")


def test_a_machine_that_runs_nothing_has_no_talking_profile() -> None:
    """It answers every command in the same way; one that runs Nix whatever it is told says something else."""
    noise = "expected the Nix protocol but got 'Go away'; a shell profile on that machine prints"
    found = failed(Trouble.PROTOCOL, noise)
    assert last(found).check == "stdout"
    assert last(replace(found, shell=Shell(True, "/bin/zsh"))).fix.startswith("have the profile of /bin/zsh print only")
    check = last(replace(found, shell=Shell(False, said="Go away")))
    assert (check.check, "nothing can be run there: it answers 'Go away'" in check.text) == ("login", True)
    assert last(replace(found, shell=Shell(False, said="cbor"))).check == "stdout"
    assert last(replace(failed(Trouble.PROTOCOL, "protocol mismatch"), shell=Shell(False))).check == "nix"


def test_a_profile_that_talks_first_is_told_with_what_helps() -> None:
    """Builds go there, but not those of the stock hook."""
    found = replace(FOUND, pong=replace(PONG, noise="Welcome"), shell=Shell(True, "/bin/zsh"))
    (note,) = [check for check in check_machine(found) if check.level is not Level.OK]
    assert (note.check, note.level) == ("stdout", Level.NOTE)
    assert note.text == "'Welcome' is heard before Nix: it is skipped here and fails with stock Nix"
    assert note.fix.startswith("have the profile of /bin/zsh print only on a terminal")


def test_kinds_that_are_not_ours_are_told_apart() -> None:
    """What the stock hook knows is not wrong."""
    (check,) = check_machine(replace(failed(Trouble.OTHER), machine=machine("mounted-ssh-ng://box")))
    assert (check.level, bool(check.fix)) == (Level.NOTE, True)
    (check,) = check_machine(replace(failed(Trouble.OTHER), machine=machine("sshng://box")))
    assert (check.level, "did you mean 'ssh-ng'?" in check.text) == (Level.WRONG, True)
