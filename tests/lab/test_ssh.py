"""Machines reached through the user's own ssh: its configuration, NIX_SSHOPTS, its control connections, no questions.

What the line of a machine adds is in test_ssh_line.py.
"""

import os
import pty
import re
import socket
from collections.abc import Callable, Mapping, Sequence

import pexpect.fdpexpect
import pytest

from tests.lab import roots
from tests.lab.gates import Gates, build_gated
from tests.lab.host import Host, wait_until
from tests.lab.install import HOOK
from tests.lab.lab import Lab
from tests.lab.offload import connect, nix_build
from tests.lab.ownssh import KEY, Site, works

pytestmark = pytest.mark.lab


@pytest.fixture
def jump(lab: Lab, fresh: Callable[[Host], Host], site: Site) -> Host:
    """Another host, to go through."""
    host = fresh(lab.builder(roots.SUITES[1]))
    site.authorize(host)
    return host


def hooks(client: Host) -> list[str]:
    return [command for command in client.processes().values() if re.match(r"\S*nix-ferry-hook \d$", command)]


# The user's configuration


def test_port_user_and_key_of_ssh_config(site: Site, toor: str) -> None:
    site.know(site.builder)
    site.config("Host b", "HostName 127.0.0.1", f"Port {site.builder.port}", f"User {toor}", f"IdentityFile {KEY}")
    assert works(site.build("ssh-ng://b"))
    assert site.logins(site.builder)[-1] == toor


def test_a_jump_host(site: Site, jump: Host) -> None:
    for host in (site.builder, jump):
        site.know(host)
    site.config(
        *("Host *", f"IdentityFile {KEY}", "HostName 127.0.0.1"),
        *("Host jump", f"Port {jump.port}"),
        *("Host b", f"Port {site.builder.port}", "ProxyJump jump"),
    )
    before = len(site.logins(jump))
    assert works(site.build("ssh-ng://b"))
    assert len(site.logins(jump)) == before + 1


RELAY = """\
#!/bin/bash
echo "$1 $2" > /root/relayed
exec 3<>/dev/tcp/127.0.0.1/$2
cat <&3 &
cat >&3
"""


def test_a_proxy_command(site: Site) -> None:
    """It is not found by a shell of the user's choice, and it ends with the build."""
    site.client.write_file("/root/relay", RELAY, 0o755)
    site.know(site.builder, "far")
    site.config(
        "Host b", "HostName far", f"Port {site.builder.port}", "HostKeyAlias far", "ProxyCommand /root/relay %h %p"
    )
    assert works(site.build(f"ssh-ng://b - {KEY}", SHELL="/bin/false"))
    assert site.client.read_file("/root/relayed") == f"far {site.builder.port}\n"


def test_a_host_key_alias(site: Site) -> None:
    site.know(site.builder, "the-builder")
    site.config("Host 127.0.0.1", "HostKeyAlias the-builder", f"IdentityFile {KEY}")
    assert works(site.build(f"ssh-ng://127.0.0.1:{site.builder.port}"))


def test_a_local_command_does_not_print_into_the_protocol(site: Site) -> None:
    site.know(site.builder)
    site.config("PermitLocalCommand yes", "LocalCommand echo connected to %h")
    assert works(site.build(f"ssh-ng://127.0.0.1:{site.builder.port} - {KEY}"))


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
def test_a_control_connection_that_outlives_the_build(site: Site, scheme: str) -> None:
    """Many users have one for speed.  Neither hook nor Nix may wait for it, and the next build goes through it."""
    site.know(site.builder)
    site.config(
        *("Host b", "HostName 127.0.0.1", f"Port {site.builder.port}", f"IdentityFile {KEY}"),
        *("ControlMaster auto", "ControlPath /root/control", "ControlPersist 600"),
    )
    before = len(site.logins(site.builder))
    try:
        assert works(site.build(f"{scheme}://b"))
        site.client.run(["ssh", "-O", "check", "b"])
        site.client.reset_store()
        site.builder.reset_store()
        assert works(site.build(f"{scheme}://b"))
    finally:
        site.client.run(["ssh", "-O", "exit", "b"])
    assert len(site.logins(site.builder)) == before + 1


def test_a_build_that_ends_does_not_take_the_control_connection_of_others_along(site: Site) -> None:
    """Without ControlPersist the ssh of the first build would carry all others, and die with it."""
    site.know(site.builder)
    site.config(
        *("Host b", "HostName 127.0.0.1", f"Port {site.builder.port}", f"IdentityFile {KEY}"),
        *("ControlMaster auto", "ControlPath /root/control"),
    )
    gates = Gates(site.builder)
    site.client.configure(hook=HOOK, builders="ssh-ng://b - - 2")
    build = site.client.popen(build_gated("a", "b", seed="control"))
    try:
        gates.wait_for("+ a")
        gates.wait_for("+ b")
        gates.let_through("a")
        wait_until(lambda: len(hooks(site.client)) == 1, "end of the first build")
        gates.let_through("b")
        _, said = build.communicate(timeout=60)
    finally:
        site.client.run(["ssh", "-O", "exit", "b"])
    assert build.returncode == 0
    assert "was lost" not in said
    assert sorted(gates.log()) == ["+ a", "+ b", "- a", "- b"]


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
@pytest.mark.parametrize(
    "line", ["RemoteCommand tmux attach", "SessionType none", "StdinNull yes", "ForkAfterAuthentication yes"]
)
def test_what_the_user_has_ssh_do_by_itself_is_not_done_for_builds(site: Site, scheme: str, line: str) -> None:
    """It would end, or never begin, what the build is to use."""
    site.know(site.builder)
    site.config("Host b", "HostName 127.0.0.1", f"Port {site.builder.port}", f"IdentityFile {KEY}", line)
    assert works(site.build(f"{scheme}://b"))


def test_ports_that_the_user_forwards_stay_free_for_the_users_own_ssh(site: Site) -> None:
    """A connection that is kept would keep them, too; what NIX_SSHOPTS forwards is meant for builds."""
    site.know(site.builder)
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    host = ("Host b", "HostName 127.0.0.1", f"Port {site.builder.port}", f"IdentityFile {KEY}")
    forward = f"LocalForward 127.0.0.1:{port} 127.0.0.1:{site.builder.port}"
    site.config(*host, forward, "ExitOnForwardFailure yes")
    assert works(site.build("ssh-ng://b"))
    # With a broker the connection is still there.
    site.client.run(["ssh", "b", "true"])
    site.client.reset_store()
    site.builder.reset_store()
    script = f'#!/bin/sh\nexec 3<>/dev/tcp/127.0.0.1/{port} && head -c4 <&3 > /root/greeting; exec nix-daemon "$@"\n'
    site.builder.write_file("/root/nix", script.replace("/bin/sh", "/bin/bash"), 0o755)
    site.config(*host)
    forwarding = f"-L 127.0.0.1:{port}:127.0.0.1:{site.builder.port}"
    assert works(site.build("ssh-ng://b?remote-program=/root/nix", NIX_SSHOPTS=forwarding))
    assert site.builder.read_file("/root/greeting") == "SSH-"


# NIX_SSHOPTS


def test_nix_sshopts_are_split_like_a_shell_and_come_first(site: Site) -> None:
    """The port of the address is wrong, and ssh takes the first one it is given."""
    site.know(site.builder)
    site.client.run(["mv", "/root/.ssh/known_hosts", "/root/known hosts"])
    options = f"-p {site.builder.port} -i {KEY} -o 'UserKnownHostsFile=\"/root/known hosts\"'"
    assert works(site.build("ssh-ng://127.0.0.1:1", NIX_SSHOPTS=options))


# No questions


class Terminal:
    """A terminal of the client, at which somebody could answer."""

    QUESTIONS = ("(?i)passphrase", "(?i)password:", "yes/no")

    def __init__(self, client: Host) -> None:
        self._client = client

    def question_of(self, command: Sequence[str], env: Mapping[str, str]) -> tuple[str | None, str]:
        """Run a command up to its first question or its end; return the question, None if there was none, and all
        that it printed.
        """
        ours, theirs = pty.openpty()
        child = self._client.popen(
            ["setsid", "--ctty", "--wait", *command], env=env, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        terminal = pexpect.fdpexpect.fdspawn(ours, timeout=60, encoding="utf-8", codec_errors="replace")
        index = terminal.expect([*self.QUESTIONS, pexpect.EOF])
        question = self.QUESTIONS[index] if index < len(self.QUESTIONS) else None
        self._client.end(child)
        terminal.close()
        return question, terminal.before


def test_a_locked_key_is_an_error_and_no_question(site: Site) -> None:
    """A hook has no terminal, but might find one: Nix was started at this one."""
    site.make_key("/root/keys/locked", "secret")
    site.authorize(site.builder, "/root/keys/locked")
    site.know(site.builder)
    terminal = Terminal(site.client)
    plain = ["ssh", "-p", str(site.builder.port), "-i", "/root/keys/locked", "127.0.0.1"]
    assert terminal.question_of(plain, {})[0] == "(?i)passphrase"

    machine = f"ssh-ng://127.0.0.1:{site.builder.port} - /root/keys/locked"
    site.client.configure(hook=HOOK, builders=machine)
    environment = {"DISPLAY": ":0", "SSH_ASKPASS": "/bin/true", "SSH_ASKPASS_REQUIRE": "force", "TERM": "xterm"}
    question, said = terminal.question_of(nix_build("from-source", seed="locked"), environment)
    assert question is None
    assert "Permission denied (publickey,keyboard-interactive). (the machine refused the key" in said
    assert "Permission denied (publickey" in site.build(machine, check=False, **environment).stderr


def test_an_unknown_host_key_is_an_error_and_no_question(site: Site) -> None:
    terminal = Terminal(site.client)
    plain = ["ssh", "-p", str(site.builder.port), "-i", KEY, "127.0.0.1"]
    assert terminal.question_of(plain, {})[0] == "yes/no"

    machine = f"ssh-ng://127.0.0.1:{site.builder.port} - {KEY}"
    site.client.configure(hook=HOOK, builders=machine)
    question, said = terminal.question_of(nix_build("from-source", seed="unknown"), {"TERM": "xterm"})
    assert question is None
    assert "Host key verification failed. (add the machine's host key to known_hosts" in said
    assert "Host key verification failed" in site.build(machine, check=False).stderr
    assert not site.client.path("/root/.ssh/known_hosts").exists()


def test_at_vv_ssh_says_what_it_does(client: Host, twin: Host, hook: str | None) -> None:
    """As with stock, to find out why a machine cannot be reached."""
    connect(client, twin, hook)
    assert "Authenticated to 127.0.0.1" in client.run(nix_build("from-source", seed="verbose", options=["-vv"])).stderr
