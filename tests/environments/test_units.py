"""Under a real systemd a broker is nobody's process: no end of another unit or of a session takes builds along."""

import os
import re
import resource
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab.booted import Booted
from tests.lab.gates import Gates, build_gated
from tests.lab.host import Host, wait_until
from tests.lab.install import HOOK, PREFIX
from tests.lab.midway import running
from tests.lab.offload import nix_build

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]

FERRY = f"{PREFIX}/bin/nix-ferry"
SERVICE = r"nix-ferry-broker\.service"
SCOPE = r"nix-ferry-broker-\d+\.scope"
THROUGH_DAEMON = {"NIX_REMOTE": "daemon"}


def in_unit(host: Booted, name: str, *properties: str) -> list[str]:
    """Return what runs a command as a unit, which ends with it, in the environment that the host's commands have."""
    unit = ["systemd-run", "--quiet", "--wait", "--collect", f"--unit={name}", *(f"-p{each}" for each in properties)]
    environ = {"HOME": "/root", **host.environment()}
    return [*unit, "env", *(f"{name}={value}" for name, value in environ.items())]


def succeeds(build: "subprocess.Popen[str]") -> bool:
    _, stderr = build.communicate(timeout=60)
    assert build.returncode == 0, stderr
    return True


def only_broker(host: Booted) -> str:
    """Return its unit."""
    (unit,) = host.brokers().values()
    return unit


@pytest.fixture(params=[True, False], ids=["installed", "not installed"])
def unit(booted: Booted, request: pytest.FixtureRequest) -> str:
    """What the unit of a broker is called; there is a service if `nix-ferry install` has run."""
    if request.param:
        # The host names its hook in the environment, which would count more than what is written.
        booted.run([FERRY, "install", "--yes"], env={"NIX_CONFIG": ""})
    return SERVICE if request.param else SCOPE


def test_the_first_unit_ends_while_somebody_else_builds(booted: Booted, there: Host, unit: str) -> None:
    """A timer's job had the first build; the broker goes on for the second."""
    gates = Gates(there)
    with ExitStack() as builds:
        job = builds.enter_context(running(booted, [*in_unit(booted, "job"), *build_gated("a", seed="job")]))
        gates.wait_for("+ a")
        assert re.fullmatch(unit, only_broker(booted))
        build = builds.enter_context(running(booted, build_gated("b", seed="mine")))
        gates.wait_for("+ b")
        gates.let_through("a")
        assert succeeds(job)
        gates.let_through("b")
        assert succeeds(build)


def test_commands_that_begin_together_share_a_broker(booted: Booted, there: Host, unit: str) -> None:
    """Each of them wants one."""
    gates = Gates(there)
    with ExitStack() as held:
        builds = [held.enter_context(running(booted, build_gated(name, seed="together"))) for name in "abcd"]
        gates.wait_inside(4)
        assert re.fullmatch(unit, only_broker(booted))
        for name in "abcd":
            gates.let_through(name)
        assert all(map(succeeds, builds))


def test_a_daemon_that_is_restarted_leaves_no_process_behind(booted: Booted, there: Host, unit: str) -> None:
    """Its own builds end with it; those of a command that does without go on, and so does the broker."""
    booted.restart_daemon()
    gates = Gates(there)
    with ExitStack() as builds:
        through = builds.enter_context(running(booted, build_gated("a", seed="daemon"), THROUGH_DAEMON))
        gates.wait_for("+ a")
        assert re.fullmatch(unit, only_broker(booted))
        build = builds.enter_context(running(booted, build_gated("b", seed="mine")))
        gates.wait_for("+ b")
        before = booted.brokers()
        booted.systemctl("kill", "--signal=KILL", "nix-daemon")
        booted.restart_daemon()
        through.communicate(timeout=60)
        assert through.returncode != 0
        gates.let_through("b")
        assert succeeds(build)
        again = builds.enter_context(running(booted, build_gated("c", seed="daemon"), THROUGH_DAEMON))
        gates.wait_for("+ c")
        gates.let_through("c")
        assert succeeds(again)
        assert booted.brokers() == before
    # What was killed with the daemon may take a moment to be gone.
    left = re.findall(r"left-over process \d+ \(([^)]*)\)", booted.journal("nix-daemon"))
    assert set(left) <= {"nix-daemon", "nix-ferry-hook"}


@pytest.mark.parametrize(
    "properties",
    [("ProtectHome=tmpfs",), ("PrivateNetwork=yes",), ("NoNewPrivileges=yes",), ("SystemCallFilter=~@clock",)],
    ids="".join,
)
def test_a_confined_unit_has_a_broker_of_its_own(
    booted: Booted, there: Host, properties: tuple[str, ...], unit: str
) -> None:
    """That is confined as it is, and serves nobody else."""
    build = [*in_unit(booted, "confined", *properties), *nix_build("from-source", seed="confined")]
    done = booted.run(build, check=False)
    reaches = properties[0].startswith(("NoNew", "System"))
    assert (done.returncode == 0) == reaches, done.stderr
    ((confined, own),) = booted.brokers().items()
    assert re.fullmatch(SCOPE, own)
    booted.run(nix_build("from-source", seed="usual"))
    units = booted.brokers()
    assert units.pop(confined) == own
    (usual,) = units.values()
    assert re.fullmatch(unit, usual)


def test_what_a_unit_has_set_for_itself_holds_for_nobody_else(booted: Booted, there: Host) -> None:
    """Whoever has the first build may be the least important of all."""
    # Where nobody may raise what is limited, as on machines that tests run on, another limit is another standing.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = f"LimitNOFILE=64:{most}"
    properties = ("Nice=19", "CPUSchedulingPolicy=idle", "IOSchedulingClass=idle", "UMask=0777", limit)
    booted.run([*in_unit(booted, "modest", *properties), *nix_build("from-source", seed="modest")])
    (pid,) = booted.brokers()
    assert os.getpriority(os.PRIO_PROCESS, pid) == 0
    assert os.sched_getscheduler(pid) == os.SCHED_OTHER
    with open(f"/proc/{pid}/status") as status:
        assert "Umask:\t0022\n" in status
    booted.run(nix_build("from-source", seed="usual"))
    assert len(booted.brokers()) == 1


@pytest.fixture
def logins(booted: Booted) -> Iterator[Booted]:
    """The host, whose sessions take with them what was started in them; log in with `ssh USER@self`."""
    booted.write_file("/etc/systemd/logind.conf", "[Login]\nKillUserProcesses=yes\nKillExcludeUsers=\n")
    booted.systemctl("restart", "systemd-logind")
    booted.start_sshd("UsePAM yes")
    booted.trust(booted, "self")
    yield booted
    booted.stop_sshd()
    booted.run(["rm", "/etc/systemd/logind.conf"])
    booted.systemctl("restart", "systemd-logind")


def sessions(host: Booted) -> list[str]:
    """Return those that are open."""
    return [line.split()[0] for line in host.run(["loginctl", "--no-legend", "list-sessions"]).stdout.splitlines()]


def test_a_session_ends_while_somebody_else_builds(logins: Booted, there: Host, unit: str) -> None:
    """It had the first build, and the administrator wants nothing to be left of it."""
    gates = Gates(there)
    with ExitStack() as builds:
        session = builds.enter_context(running(logins, ["ssh", "root@self", *build_gated("a", seed="session")]))
        gates.wait_for("+ a")
        assert len(sessions(logins)) == 1
        assert re.fullmatch(unit, only_broker(logins))
        build = builds.enter_context(running(logins, build_gated("b", seed="mine")))
        gates.wait_for("+ b")
        gates.let_through("a")
        assert succeeds(session)
        wait_until(lambda: sessions(logins) == [], "the end of the session")
        gates.let_through("b")
        assert succeeds(build)


def test_the_broker_of_a_user_outlives_a_session_of_many(logins: Booted, there: Host) -> None:
    """It belongs to the user's own systemd, which goes with the last of them."""
    logins.add_user("alice")
    logins.run(["sh", "-c", "cp -r /root/.ssh /home/alice && chown -R alice /home/alice/.ssh"])
    logins.run(["sed", "-i", "s,/root/,/home/alice/,", *[f"/home/alice/.ssh/hosts/{there.name}"]])
    logins.configure(builders=f"ssh-ng://root@{there.name} - - 8", max_jobs="0", build_hook=HOOK)
    logins.run(["chmod", "-R", "go-w", "/nix"])
    gates = Gates(there)
    store = ("-j0", "--store", "/home/alice/store")
    with ExitStack() as builds:
        first, second = (
            builds.enter_context(
                running(logins, ["ssh", "alice@self", *build_gated(name, seed="alice", options=store)])
            )
            for name in "ab"
        )
        gates.wait_inside(2)
        ((pid, unit),) = logins.brokers().items()
        assert re.fullmatch(SCOPE, unit)
        assert "/user@" in Path(f"/proc/{pid}/cgroup").read_text()
        gates.let_through("a")
        assert succeeds(first)
        wait_until(lambda: len(sessions(logins)) == 1, "the end of a session")
        gates.let_through("b")
        assert succeeds(second)
    wait_until(lambda: logins.brokers() == {}, "the end of everything of the user's")
