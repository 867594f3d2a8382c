"""install and uninstall: the line shown first, written whole, taken back whole.

With a scripted Nix; tests/lab/test_install.py has real ones.  Which file the line goes to is in test_where.py.
"""

import os
import sys

import pexpect
import pytest

from hook.cli import daemon
from hook.cli.change import carry_out
from hook.cli.install.confline import ADDED, CREATED
from hook.cli.install.hookfile import placing
from hook.cli.status.status import NO_BROKER, NOT_OURS
from tests.cli.install.scripted import OWN, PROGRAM, Place, ferry


def test_the_line_goes_behind_everything_else(host: Place) -> None:
    """So that no line or include before it counts; and shown before it is written."""
    (host.directory / "etc" / "more.conf").write_text("build-hook = /by/include\n")
    text = "cores = 2\nbuild-hook = /another\ninclude more.conf\n"
    conf = host.conf(text)
    conf.chmod(0o640)
    done = ferry("install", "--yes")
    assert done.exit_code == 0
    assert conf.read_text() == f"{text}{ADDED}\n{host.line}"
    assert conf.stat().st_mode & 0o777 == 0o640
    assert f"--- {conf}" in done.output
    assert f"\n+{host.line}" in done.output
    assert ferry("install", "--yes").output.startswith("nothing to change: Nix 2.34.8 is told to run")
    assert ferry("uninstall", "--yes").exit_code == 0
    assert conf.read_text() == text
    assert ferry("uninstall", "--yes").output.startswith("nothing to change")


def test_uninstall_says_what_stays(host: Place) -> None:
    """And only what is there; a look ends no broker."""
    (host.directory / "home/.ssh").mkdir(parents=True)
    (host.directory / "home/.ssh/nix-ferry").touch()
    (host.directory / "etc/ferry.toml").touch()
    (host.directory / "state/nix-ferry").mkdir(0o700)
    assert ferry("install", "--yes").exit_code == 0
    looked, done = ferry("uninstall", "--dry-run").output, ferry("uninstall", "--yes").output
    assert ("broker is" in looked, "no broker is running\n" in done) == (False, True)
    for said in (looked, done):
        stays = said.partition("what stays:\n")[2]
        for path in ("state/nix-ferry", "home/.ssh/nix-ferry", "etc/ferry.toml"):
            assert f"  {host.directory}/{path}: " in stays
        assert "nix-ferry.pub" not in stays
        assert f"  {PROGRAM.resolve().parents[1]}: the programs" in stays


def test_status_knows_whether_nix_would_start_a_broker(host: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after."""
    assert ferry("status").output == f"{NOT_OURS}\n"
    assert ferry("install", "--yes").exit_code == 0
    assert ferry("status").output == f"{NO_BROKER}\n"
    host.with_daemon()
    monkeypatch.setattr(daemon, "started", lambda environ: 0.0)
    text = f"the Nix daemon has to be restarted, since '{host.directory}/etc/nix.conf' was written after it started"
    assert text in ferry("status").output
    host.script("nix", "exit 1")
    assert ferry("status").output == "no broker is running\n"


def test_without_any_configuration_there_is_none_afterwards(host: Place) -> None:
    """Neither files nor directories stay."""
    (host.directory / "etc").rmdir()
    assert ferry("install", "--yes").exit_code == 0
    assert (host.directory / "etc" / "nix.conf").read_text() == f"{CREATED}\n{host.line}"
    assert ferry("uninstall", "--yes").exit_code == 0
    assert not (host.directory / "etc").exists()


def test_a_line_that_the_user_wrote_is_enough(host: Place) -> None:
    """And stays at uninstall, since it is not ours; so does what it names."""
    conf = host.conf(host.line)
    done = ferry("install", "--yes")
    assert done.exit_code == 0
    assert "daemon" not in done.output
    assert "nothing to change" in ferry("install").output
    done = ferry("uninstall", "--yes")
    assert done.exit_code == 1
    assert f"'{host.hook}' stays: Nix still takes it as build-hook" in done.output
    assert (conf.read_text(), host.hook.exists()) == (host.line, True)


def test_under_systemd_the_broker_has_a_unit(host: Place) -> None:
    """So that it belongs to nobody who starts it; it goes with the rest."""
    host.with_systemd()
    assert ferry("install", "--yes").exit_code == 0
    assert f"\nExecStart={PROGRAM.with_name('nix-ferry-broker')} /nix/var/nix/nix-ferry\n" in host.service.read_text()
    assert "nothing to change" in ferry("install", "--yes").output
    host.service.unlink()
    assert f"wrote '{host.service}'" in ferry("install", "--yes").output
    assert ferry("uninstall", "--yes").exit_code == 0
    assert not host.service.exists()


def test_a_unit_that_somebody_has_written_stays(host: Place) -> None:
    """What they want of it is theirs to say."""
    host.with_systemd()
    host.service.parent.mkdir()
    host.service.write_text("[Service]\n")
    assert ferry("install", "--yes").exit_code == 0
    assert ferry("uninstall", "--yes").exit_code == 0
    assert host.service.read_text() == "[Service]\n"


def test_a_daemon_that_cannot_be_restarted_is_one_line(host: Place) -> None:
    """What was written stays."""
    host.with_daemon()
    host.with_systemd()
    host.script("systemctl", "exit 3")
    done = ferry("install", "--yes", "--restart")
    assert done.exit_code == 1
    assert "error: cannot restart the Nix daemon: " in done.output.splitlines()[-1]


def test_a_look_changes_nothing(host: Place) -> None:
    conf = host.conf("cores = 2\n")
    done = ferry("install", "--dry-run")
    assert done.exit_code == 0
    assert f"+{host.line}" in done.output
    assert conf.read_text() == "cores = 2\n"


def test_nobody_to_ask_is_one_line(host: Place) -> None:
    """A script has to say --yes."""
    conf = host.conf("")
    done = ferry("install")
    assert done.exit_code == 1
    assert done.output.splitlines()[-1].startswith("error: there is no terminal to ask on: give --yes")
    assert conf.read_text() == ""


def test_who_may_not_write_is_told_so_in_one_line(host: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is asked."""
    conf = host.conf("cores = 2\n")
    monkeypatch.setattr(os, "access", lambda path, mode, real=os.access: path != str(conf.parent) and real(path, mode))
    done = ferry("install", "--yes")
    assert done.exit_code == 1
    assert done.output.splitlines()[-1] == (
        f"error: cannot write '{conf}': you may not change '{conf.parent}'; run this as root"
    )


@pytest.mark.parametrize("placed", [False, True], ids=["hook", "nix.conf"])
def test_a_write_that_fails_leaves_the_file_as_it_was(
    host: Place, monkeypatch: pytest.MonkeyPatch, placed: bool
) -> None:
    """And nothing else beside it."""
    conf = host.conf("cores = 2\n")
    if placed:
        carry_out(placing(str(host.hook), str(OWN)))

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = ferry("install", "--yes")
    path = conf if placed else host.hook
    assert done.output.splitlines()[-1] == f"error: cannot write '{path}': No space left on device"
    assert [(path.name, path.read_text()) for path in conf.parent.iterdir()] == [("nix.conf", "cores = 2\n")]
    assert sorted(path.name for path in host.hook.parent.iterdir()) == ["nix-ferry-hook", "programs"] * placed


# Prompts, through a pseudo-terminal

LAUNCH = """
import sys
from hook.cli import daemon
from hook.cli.install import where as place
sys.argv[0], daemon.SYSTEMD, place.DROP_IN, place.SERVICE_FILE, place.LIBEXEC = sys.argv[1:6]
del sys.argv[1:6]
daemon.environment = dict
from hook.cli.main import main
main()
"""


def terminal(host: Place, *arguments: str) -> "pexpect.spawn[str]":
    """Somebody who sits in front of it."""
    fixed = [str(each) for each in (PROGRAM, host.directory / "run", host.drop_in, host.service, host.hook.parent)]
    return pexpect.spawn(sys.executable, ["-c", LAUNCH, *fixed, *arguments], encoding="utf-8", timeout=60)


def ended(child: "pexpect.spawn[str]") -> int | None:
    """Its status, once it has said all."""
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus


def test_it_asks_before_it_writes_and_before_it_restarts(host: Place) -> None:
    """The change is on the screen by then; uninstall does the same."""
    host.with_daemon()
    host.with_systemd()
    conf = host.conf("cores = 2\n")
    child = terminal(host, "install")
    child.expect_exact(f"+{host.line.strip()}")
    child.expect_exact("Write this? [y/N]: ")
    assert conf.read_text() == "cores = 2\n"
    child.sendline("y")
    child.expect_exact("Restart the Nix daemon now? [y/N]: ")
    assert (conf.read_text().endswith(host.line), host.asked()) == (True, [])
    child.sendline("y")
    assert ended(child) == 0
    assert host.asked() == ["daemon-reload", "restart nix-daemon.service"]
    child = terminal(host, "uninstall")
    child.expect_exact("Write this? [y/N]: ")
    child.sendline("y")
    child.expect_exact("Restart the Nix daemon now? [y/N]: ")
    child.sendline("")
    child.expect_exact("systemctl daemon-reload && systemctl restart nix-daemon.service")
    assert ended(child) == 0
    assert (conf.read_text(), len(host.asked())) == ("cores = 2\n", 2)


def test_what_was_written_while_it_asked_stays(host: Place) -> None:
    """The question may be left open for a day."""
    conf = host.conf("cores = 2\n")
    child = terminal(host, "install")
    child.expect_exact("Write this? [y/N]: ")
    conf.write_text("cores = 2\nmax-jobs = 7\n")
    child.sendline("y")
    child.expect_exact("somebody else has changed it meanwhile: that is in it, too")
    assert ended(child) == 0
    assert conf.read_text() == f"cores = 2\nmax-jobs = 7\n{ADDED}\n{host.line}"


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x03", "\x04"])
def test_any_other_answer_changes_nothing(host: Place, answer: str) -> None:
    """No, nothing, an interrupt and an end of input alike; none of them leaves a stack trace."""
    conf = host.conf("cores = 2\n")
    child = terminal(host, "install")
    child.expect_exact("Write this? [y/N]: ")
    child.send(answer)
    child.expect_exact("Aborted!")
    assert ended(child) == 1
    assert conf.read_text() == "cores = 2\n"
