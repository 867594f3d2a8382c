"""Several callers of one broker: each builds where its own ssh would lead it, with what that would send.

A real ssh reads real configurations; what is remembered of them is tested in tests/remote/test_configurations.py.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from hook.errors import Trouble
from tests.lab import roots
from tests.lab.gates import Gates, build_gated
from tests.lab.host import HOST_KEY, Host, wait_until
from tests.lab.install import HOOK, lasting
from tests.lab.lab import Lab
from tests.lab.midway import WARM, is_clean, running
from tests.lab.offload import nix_build

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]

KEY = "/root/.ssh/id_ed25519"
FIFO = "/root/decision"


class Site:
    """A client that knows two builders, and names neither in its configuration yet."""

    def __init__(self, client: Host, one: Host, two: Host) -> None:
        self.client, self.one, self.two = client, one, two
        for builder in (one, two):
            client.trust(builder)
        self.know()
        client.configure(hook=HOOK, builders="ssh-ng://b - - 4")
        self.seed = 0

    def know(self) -> None:
        """Let ssh know the builders where they listen now."""
        known = [f"[127.0.0.1]:{host.port} {host.read_file(HOST_KEY + '.pub')}" for host in (self.one, self.two)]
        self.client.write_file("/root/.ssh/known_hosts", "".join(known))

    def config(self, *lines: str) -> None:
        self.client.write_file("/root/.ssh/config", "\n".join([*lines, f"IdentityFile {KEY}", ""]), 0o600)

    def leads_to(self, builder: Host) -> str:
        return f"  HostName 127.0.0.1\n  Port {builder.port}"

    def build(self, **env: str) -> None:
        """Build something that was not built before."""
        self.seed += 1
        self.client.run(nix_build("from-source", seed=f"callers-{self.seed}"), env=env)

    def logins(self, builder: Host) -> int:
        return builder.read_file("/var/log/sshd.log").count("Accepted publickey")


@pytest.fixture(params=[roots.SUITES[0], roots.SUITES[-1]], ids=roots.label)
def site(request: pytest.FixtureRequest, lab: Lab, fresh: Callable[[Host], Host]) -> Iterator[Site]:
    lab.standalone(False)
    client = fresh(lab.client(request.param))
    with lasting(client):
        yield Site(client, fresh(lab.builder(roots.SUITES[0])), fresh(lab.builder(roots.SUITES[-1])))


def built(builder: Host) -> int:
    """How many builds it has done."""
    return len(list(builder.path("/nix/store").glob("*-from-source")))


def test_a_variable_leads_each_caller_to_its_own_machine(site: Site) -> None:
    """By Match exec; and each one's connection is there when it comes again."""
    site.config(
        *('Match host b exec "test $WHERE = one"', site.leads_to(site.one)),
        *('Match host b exec "test $WHERE = two"', site.leads_to(site.two)),
        "Match all",
    )
    for _ in range(2):
        site.build(WHERE="one")
        site.build(WHERE="two")
    assert (built(site.one), built(site.two)) == (2, 2)
    before = site.logins(site.one), site.logins(site.two)
    for _ in range(3):
        site.build(WHERE="one")
        site.build(WHERE="two")
    assert (built(site.one), built(site.two)) == (5, 5)
    assert (site.logins(site.one), site.logins(site.two)) == before


@contextmanager
def listening(site: Site, names: str, script: str) -> Iterator[None]:
    """The first builder accepts variables of these names, and runs `script` where it would run `nix-daemon`."""
    site.one.stop_sshd()
    site.one.start_sshd(f"AcceptEnv {names}")
    try:
        site.one.write_file("/root/nix", f"#!/bin/sh\n{script}\n", 0o755)
        site.know()
        site.client.configure(hook=HOOK, builders="ssh-ng://b?remote-program=/root/nix")
        yield
    finally:
        site.one.run(["rm", "-f", "/root/settings", "/root/nix"])
        site.one.stop_sshd()
        site.one.start_sshd()


@pytest.mark.parametrize("how", ["SendEnv SETTING_*", "SetEnv SETTING_ONE={}"])
def test_each_build_has_what_its_own_caller_sends(site: Site, how: str) -> None:
    """Some services are set up by it."""
    with listening(site, "SETTING_*", 'echo "$SETTING_ONE" >> /root/settings\nexec nix-daemon "$@"'):
        for value in ("first", "second", "first"):
            if "{}" in how or value == "first":
                site.config("Host b", site.leads_to(site.one), f"  {how.format(value)}")
            site.build(SETTING_ONE=value)
        # After any change of a file another connection is made.
        assert site.one.read_file("/root/settings").split() == ["first", "second", "first"]


def test_who_names_a_wrong_key_fails_alone(site: Site) -> None:
    """The machine refuses that caller; another one, who names the right key, waits for nothing."""
    site.config("Host b", site.leads_to(site.one), "  IdentityFile /root/.ssh/${KEYNAME}", "  IdentitiesOnly yes")
    config = site.client.read_file("/root/.ssh/config")
    site.client.write_file("/root/.ssh/config", config.replace(f"IdentityFile {KEY}\n", ""), 0o600)
    site.build(KEYNAME="id_ed25519")
    wrong = site.client.run(nix_build("from-source", seed="wrong"), env={"KEYNAME": "another"}, check=False)
    assert wrong.returncode != 0
    began = time.monotonic()
    right = site.client.run([*nix_build("from-source", seed="right"), "-v"], env={"KEYNAME": "id_ed25519"})
    assert time.monotonic() - began < Trouble.AUTHENTICATION.pause_s / 2
    assert "next try in" not in right.stderr


def test_who_sends_something_wrong_fails_alone(site: Site) -> None:
    """A machine may want a token."""
    with listening(site, "TOKEN", 'test "$TOKEN" = right && exec nix-daemon "$@"'):
        site.config("Host b", site.leads_to(site.one), "  SendEnv TOKEN")
        site.build(TOKEN="right")
        wrong = site.client.run(nix_build("from-source", seed="wrong"), env={"TOKEN": "wrong"}, check=False)
        assert wrong.returncode != 0
        right = site.client.run([*nix_build("from-source", seed="right"), "-v"], env={"TOKEN": "right"})
        assert "next try in" not in right.stderr


@pytest.mark.parametrize("mistake", ["Port 1", "User nobody"])
def test_a_configuration_that_is_mended_counts_at_once(site: Site, mistake: str) -> None:
    """The machine was left alone for what was wrong here."""
    site.config("Host b", f"  {mistake}", site.leads_to(site.one))
    wrong = site.client.run(nix_build("from-source", seed="wrong"), check=False)
    assert wrong.returncode != 0
    site.config("Host b", site.leads_to(site.one))
    right = site.client.run(nix_build("from-source", seed="right", options=["-v"]))
    assert "next try in" not in right.stderr


def test_shells_share_a_connection(site: Site) -> None:
    """What differs between any two of them means nothing to ssh."""
    site.config("Host b", site.leads_to(site.one))
    before = site.logins(site.one)
    for number, directory in enumerate(("/", "/root", "/tmp")):
        site.build(PWD=directory, SHLVL=str(number), TERM=f"xterm-{number}", WINDOWID=str(number))
    assert site.logins(site.one) == before + 1
    served = [command for command in site.one.processes().values() if command.startswith("nix-daemon --stdio")]
    assert len(served) == 1


@pytest.mark.parametrize("place", ["config", "included"])
def test_an_alias_that_is_another_machine_now_is_one_at_once(site: Site, place: str) -> None:
    """The next build goes there, whatever connections there are."""
    if place == "included":
        site.config("Include more/*")

    def lead_to(builder: Host) -> None:
        if place == "config":
            site.config("Host b", site.leads_to(builder))
        else:
            site.client.write_file("/root/.ssh/more/b", f"Host b\n{site.leads_to(builder)}\n", 0o600)

    for builder in (site.one, site.two, site.one):
        lead_to(builder)
        before = built(builder)
        site.build()
        assert built(builder) == before + 1


def test_a_decision_that_takes_long_is_waited_for_once(site: Site) -> None:
    """The connection that is to be made waits for it; ssh is asked at the same time, and not before."""
    site.client.run(["mkfifo", FIFO])
    decision = f"Match host b exec \"sh -c 'read line < {FIFO}'\""
    site.config(decision, site.leads_to(site.one), "Match all")
    try:
        with running(site.client, nix_build("from-source", seed="slow")) as build:

            def waiting() -> set[bool]:
                """Whether those that wait were asked (True) or connect."""
                commands = [each for each in site.client.processes().values() if each.startswith("ssh b ")]
                return {each.endswith(" -G") for each in commands}

            wait_until(lambda: waiting() == {True, False}, "both to wait")
            fifo = os.open(site.client.path(FIFO), os.O_RDWR)
            try:
                # Enough for every ssh that asks from now on.
                os.write(fifo, b"\n" * 1000)
                _, stderr = build.communicate(timeout=60)
            finally:
                os.close(fifo)
        assert build.returncode == 0, stderr
    finally:
        site.client.run(["rm", "-f", FIFO])


NAMED = ("Host *", "  ControlMaster no", "  ControlPath ~/.ssh/master-%r@%n:%p", "  ControlPersist no")
"""What home-manager writes by default."""


def test_a_name_for_a_control_connection_keeps_nobody_from_sharing(site: Site) -> None:
    site.config("Host b", site.leads_to(site.one), *NAMED)
    before = site.logins(site.one)
    gates = Gates(site.one)
    with running(site.client, build_gated(*"abcd", seed="named")) as build:
        gates.wait_inside(4)
        assert site.logins(site.one) == before + 1
        for name in "abcd":
            gates.let_through(name)
        _, stderr = build.communicate(timeout=60)
    assert build.returncode == 0, stderr


def test_who_has_begun_one_by_that_name_keeps_it(site: Site) -> None:
    site.config("Host b", site.leads_to(site.one), *NAMED)
    own = site.client.popen(["ssh", "-N", "-M", "b"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        check = ["ssh", "-O", "check", "b"]
        wait_until(lambda: site.client.run(check, check=False).returncode == 0, "the control connection")
        before = site.logins(site.one)
        site.build()
        assert site.logins(site.one) == before
    finally:
        site.client.end(own)
    is_clean(site.client, site.one, warm=WARM)
