"""install and uninstall: the right line in the right file, shown first, written whole, taken back whole.

With a scripted Nix; tests/lab/test_install.py has real ones.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from click.testing import CliRunner, Result

from hook.cli import daemon
from hook.cli.change import carry_out
from hook.cli.install import where as place
from hook.cli.install.confline import ADDED, CREATED
from hook.cli.install.hookfile import lacking, placing
from hook.cli.main import main
from hook.cli.status.status import NO_BROKER, NOT_OURS
from tests.fakes import nix as fake_nix

PROGRAM = Path(sys.executable).with_name("nix-ferry")
OWN = PROGRAM.resolve().with_name("nix-ferry-hook")


changeable = place.changeable


class Place:
    """A host of directories and scripts of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = {
            "HOME": str(directory / "home"),
            "NIX_CONF_DIR": str(directory / "etc"),
            "NIX_STATE_DIR": str(directory / "state"),
            "PATH": f"{directory}/bin:{os.environ['PATH']}",
            "RELEASE": "2.34.8",
        }
        self.hook = directory / "libexec/nix-ferry/nix-ferry-hook"
        self.line = f"build-hook = {self.hook}\n"
        self.drop_in = directory / "systemd" / "nix-ferry.conf"
        self.service = directory / "systemd" / "nix-ferry-broker.service"
        self.calls = directory / "calls"
        for name in ("bin", "etc", "state"):
            (directory / name).mkdir()
        self.script("nix", f'exec {sys.executable} -S {fake_nix.__file__} "$@"')

    def script(self, name: str, text: str) -> None:
        path = self.directory / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def conf(self, text: str) -> Path:
        path = self.directory / "etc" / "nix.conf"
        path.write_text(text)
        return path

    def with_daemon(self) -> None:
        (self.directory / "state" / "daemon-socket").mkdir()
        (self.directory / "state" / "daemon-socket" / "socket").touch()

    def with_systemd(self, unit_environment: str = "") -> None:
        """One that only writes down what it is asked to do."""
        (self.directory / "run").mkdir()
        answer = f"case $1 in show) echo '{unit_environment}';; esac"
        self.script("systemctl", f'echo "$*" >> {self.calls}; {answer}')

    def asked(self) -> list[str]:
        """What systemctl was told to do, but for questions."""
        calls = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [call for call in calls if not call.startswith("show")]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    host = Place(tmp_path)
    for name, value in host.environ.items():
        monkeypatch.setenv(name, value)
    for name in ("NIX_CONFIG", "NIX_REMOTE", "NIX_USER_CONF_FILES", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", [str(PROGRAM)])
    monkeypatch.setattr(daemon, "SYSTEMD", str(tmp_path / "run"))
    monkeypatch.setattr(place, "DROP_IN", str(host.drop_in))
    monkeypatch.setattr(place, "SERVICE_FILE", str(host.service))
    monkeypatch.setattr(place, "LIBEXEC", str(host.hook.parent))
    # Whoever owns this checkout.
    monkeypatch.setattr(place, "changeable", lambda *programs: None)
    # Whatever else runs on the machine of the tests, this is our daemon's.
    monkeypatch.setattr(daemon, "environment", dict)
    return host


def ferry(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


@pytest.mark.parametrize("what", ["program", "package"])
def test_root_is_not_made_to_run_what_others_can_change(
    host: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A virtual environment of a user, which that user could change at any time."""
    theirs = tmp_path / "venv"
    theirs.mkdir()
    os.chown(theirs, 1000, 1000)
    monkeypatch.setattr(place, "changeable", changeable)
    if what == "program":
        for program in (PROGRAM, OWN):
            shutil.copy(program, theirs)
        monkeypatch.setattr(sys, "argv", [str(theirs / "nix-ferry")])
    else:
        monkeypatch.setattr(place, "__file__", str(theirs / "hook/cli/install/where.py"))
    for option in ("--yes", "--dry-run"):
        done = ferry("install", option)
        assert (done.exit_code, f"others than root can change '{theirs}" in done.output) == (1, True)
    assert not (tmp_path / "etc/nix.conf").exists()
    assert not host.hook.exists()


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


def test_the_hook_lies_outside_of_what_is_installed(host: Place) -> None:
    """With a link to its programs; both are on the screen before they are made, and are gone at last."""
    done = ferry("install", "--yes")
    assert done.exit_code == 0
    assert host.hook.read_bytes() == OWN.read_bytes()
    assert host.hook.stat().st_mode & 0o7777 == 0o755
    assert os.readlink(host.hook.parent / "programs") == str(OWN.parent)
    assert f"+++ {host.hook}\n@@ -0,0 +1 @@\n+a copy of '{OWN}'\n" in done.output
    assert f"+++ {host.hook.parent}/programs\n@@ -0,0 +1 @@\n+a link to '{OWN.parent}'\n" in done.output
    assert sorted(path.name for path in host.hook.parent.iterdir()) == ["nix-ferry-hook", "programs"]
    assert ferry("uninstall", "--yes").exit_code == 0
    assert not host.hook.parent.exists()


def test_an_upgrade_replaces_the_hook_at_once(host: Place) -> None:
    """Also while Nix runs it; nothing else changes, so nobody has to restart anything."""
    host.with_daemon()
    host.with_systemd()
    assert ferry("install", "--yes").exit_code == 0
    conf = (host.directory / "etc/nix.conf").read_text()
    shutil.copy2("/bin/sleep", host.hook)
    (host.hook.parent / "programs").unlink()
    (host.hook.parent / "programs").symlink_to("/opt/elsewhere")
    with subprocess.Popen([host.hook, "60"]) as running:
        done = ferry("install", "--yes")
        running.kill()
    assert done.exit_code == 0
    assert "-a link to '/opt/elsewhere'" in done.output
    assert host.hook.read_bytes() == OWN.read_bytes()
    assert os.readlink(host.hook.parent / "programs") == str(OWN.parent)
    assert (host.directory / "etc/nix.conf").read_text() == conf
    assert "restart" not in done.output


def test_a_daemon_that_still_runs_the_hook_keeps_it(host: Place) -> None:
    """Every build would fail; after a restart nobody needs it."""
    host.with_daemon()
    host.with_systemd()
    assert ferry("install", "--yes", "--restart").exit_code == 0
    done = ferry("uninstall", "--yes")
    assert done.exit_code == 0
    assert f"'{host.hook}' stays, since the daemon runs it until then" in done.output
    assert (host.hook.exists(), (host.directory / "etc/nix.conf").exists()) == (True, False)
    assert ferry("uninstall", "--yes").exit_code == 0
    assert not host.hook.parent.exists()
    assert ferry("install", "--yes", "--restart").exit_code == 0
    assert ferry("uninstall", "--yes", "--restart").exit_code == 0
    assert not host.hook.parent.exists()


def test_who_is_not_root_has_the_hook_at_home(host: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single user may not write elsewhere."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert place.hook_path() == f"{host.directory}/home/.local/libexec/nix-ferry/nix-ferry-hook"


def test_a_hook_of_nixs_store_stays_there(host: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile replaces it, and a collection cannot take its libraries away."""
    hook = "/nix/store/00000000000000000000000000000000-nix-ferry/bin/nix-ferry-hook"
    monkeypatch.setattr(place, "own_hook", lambda: hook)
    assert place.hook_path() == hook


@pytest.mark.parametrize("gone", ["programs", "one", "none"])
def test_a_hook_without_programs_is_recognised(host: Place, tmp_path: Path, gone: str) -> None:
    """It answers all the same, and only `doctor` tells."""
    programs = tmp_path / "programs"
    for name in ("nix-ferry-broker", "nix-ferry-standalone"):
        programs.mkdir(exist_ok=True)
        (programs / name).touch(0o755)
    host.hook.parent.mkdir(parents=True)
    host.hook.touch(0o755)
    (host.hook.parent / "programs").symlink_to(programs)
    if gone == "programs":
        shutil.rmtree(programs)
    elif gone == "one":
        (programs / "nix-ferry-standalone").unlink()
    assert lacking(str(host.hook)) == (None if gone == "none" else str(programs))


def test_a_link_is_followed(host: Place) -> None:
    """It stays one: a configuration kept elsewhere is changed there."""
    kept = host.directory / "kept.conf"
    kept.write_text("cores = 2\n")
    (host.directory / "etc" / "nix.conf").symlink_to(kept)
    assert ferry("install", "--yes").exit_code == 0
    assert (host.directory / "etc" / "nix.conf").is_symlink()
    assert kept.read_text().endswith(host.line)


def test_what_a_configuration_of_nixos_makes_is_left_to_it(host: Place) -> None:
    """Its nix.conf is a link into the store."""
    (host.directory / "etc" / "nix.conf").symlink_to("/nix/store/00000000000000000000000000000000-nix.conf")
    done = ferry("install", "--yes")
    assert done.exit_code == 1
    assert "services.nix-ferry.enable" in done.output
    assert len(done.output.splitlines()) == 1


def test_what_another_program_writes_is_left_to_it(host: Place) -> None:
    """Determinate Nix makes nix.conf anew, and includes a file for its user."""
    conf = host.conf("cores = 2\n!include nix.custom.conf\n")
    assert ferry("install", "--yes").exit_code == 0
    assert conf.read_text() == "cores = 2\n!include nix.custom.conf\n"
    custom = host.directory / "etc" / "nix.custom.conf"
    assert custom.read_text() == f"{CREATED}\n{host.line}"
    assert ferry("uninstall", "--yes").exit_code == 0
    assert not custom.exists()


def test_a_line_that_does_not_count_is_said_to(host: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own file, read after the system's, has another one."""
    user = host.directory / "home/.config/nix/nix.conf"
    user.parent.mkdir(parents=True)
    user.write_text("build-hook = /another\n")
    done = ferry("install", "--yes")
    assert done.exit_code == 1
    assert "warning: Nix still takes '/another' as build-hook" in done.output


def test_without_a_daemon_a_nix_that_ignores_nix_conf_has_it_from_the_users(
    host: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nix 2.25 to 2.33."""
    monkeypatch.setenv("RELEASE", "2.26.3")
    conf = host.conf("cores = 2\n")
    assert ferry("install", "--yes").exit_code == 0
    assert conf.read_text() == "cores = 2\n"
    user = host.directory / "home/.config/nix/nix.conf"
    assert user.read_text() == f"{CREATED}\n{host.line}"
    assert ferry("uninstall", "--yes").exit_code == 0
    assert not user.parent.exists()


def test_a_daemon_that_ignores_nix_conf_has_it_from_its_unit(host: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is restarted only if that was asked for."""
    monkeypatch.setenv("RELEASE", "2.33.9")
    host.with_daemon()
    host.with_systemd()
    done = ferry("install", "--yes")
    assert done.exit_code == 0
    assert host.drop_in.read_text() == f'{CREATED}\n[Service]\nEnvironment="NIX_CONFIG={host.line.strip()}"\n'
    assert "systemctl daemon-reload && systemctl restart nix-daemon.service" in done.output
    assert f"root's own commands do without the daemon: for them, put '{host.line.strip()}' into " in done.output
    assert host.asked() == []
    assert "nothing to change" in ferry("install", "--yes", "--restart").output
    assert ferry("uninstall", "--yes", "--restart").exit_code == 0
    assert host.asked() == ["daemon-reload", "restart nix-daemon.service"]
    assert not host.drop_in.parent.exists()


def test_a_unit_with_settings_of_its_own_keeps_them(host: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two values of NIX_CONFIG cannot be added."""
    monkeypatch.setenv("RELEASE", "2.26.3")
    host.with_daemon()
    host.with_systemd('NIX_REMOTE=x "NIX_CONFIG=cores = 2"')
    done = ferry("install", "--yes")
    assert (done.exit_code, host.drop_in.exists()) == (1, False)
    assert done.output == f"error: nix-daemon.service sets NIX_CONFIG already: add '{host.line.strip()}' to it\n"


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
