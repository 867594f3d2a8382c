"""Machines reached through the user's own ssh: its configuration, its keys, its control connections, no questions.

Two clients stand for all, the oldest and the newest Nix and OpenSSH: nothing here depends on what lies between.  The
builder accepts one key, which lies where ssh does not look by itself, and its sshd listens on a port of its own.  That
sshd is the oldest, because from OpenSSH 9.8 on an address is locked out for a while after a login that failed.
"""

import base64
import os
import pty
import re
import socket
from collections.abc import Callable, Mapping, Sequence

import pexpect.fdpexpect
import pytest

from tests.lab import roots
from tests.lab.gates import Gates, build_gated
from tests.lab.host import HOST_KEY, Host, Output, wait_until
from tests.lab.install import HOOK
from tests.lab.lab import Lab
from tests.lab.offload import connect, nix_build

pytestmark = pytest.mark.lab

ENDS = (roots.SUITES[0], roots.SUITES[-1])
KEY = "/root/keys/one"
LOG = "/root/ssh.log"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHnBSNwTpZKDwUxkVhGZ7rQeTIkCXpKJr6iM4Wz4mV9y"
OTHER_TYPE = (
    "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBJOHaVWh"
    "+51JlpAED7F/7c1PW6leUT4dZ8qhInlfzNJjS+rtDbdBhohPeURFBBB4FfltCSeaRYX57+azAQ65FcY="
)
"""Host keys that the builder does not have; its own is of the first one's type."""


class Site:
    """A client whose ssh knows nothing yet, and a builder that accepts its KEY."""

    def __init__(self, client: Host, builder: Host) -> None:
        self.client = client
        self.builder = builder
        client.run(["rm", "-rf", "/root/.ssh"])
        self.make_key(KEY)
        self.authorize(builder)

    def make_key(self, path: str, passphrase: str = "") -> None:
        self.client.run(["mkdir", "-p", os.path.dirname(path)])
        self.client.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", path])

    def authorize(self, host: Host, key: str = KEY) -> None:
        """Let `key` in to `host`, and no other."""
        host.write_file("/etc/ssh/authorized_keys", self.client.read_file(key + ".pub"), 0o600)

    def know(self, host: Host, name: str = "") -> None:
        """Let ssh know the key of `host` by `name`, by default that of its address and port."""
        known = self.client.path("/root/.ssh/known_hosts")
        known.parent.mkdir(mode=0o700, exist_ok=True)
        with known.open("a") as file:
            file.write(f"{name or f'[127.0.0.1]:{host.port}'} {host.read_file(HOST_KEY + '.pub')}")

    def config(self, *lines: str) -> None:
        """Write the user's ssh_config."""
        self.client.write_file("/root/.ssh/config", "\n".join(lines) + "\n", 0o600)

    def build(self, machine: str, check: bool = True, **env: str) -> Output:
        """Build something on `machine`, a line of `builders`; a broker that remembers earlier failures is gone."""
        self.client.stop_broker()
        self.client.configure(hook=HOOK, builders=machine)
        return self.client.run(nix_build("from-source", seed="ssh"), env=env, check=check, timeout=60)

    def logins(self, host: Host) -> list[str]:
        """Return the users for whom `host` has accepted a key."""
        lines = host.read_file("/var/log/sshd.log").splitlines()
        return [line.split()[3] for line in lines if line.startswith("Accepted publickey for")]


@pytest.fixture(params=ENDS, ids=[f"client-{roots.label(suite)}" for suite in ENDS])
def site(request: pytest.FixtureRequest, lab: Lab, fresh: Callable[[Host], Host]) -> Site:
    return Site(fresh(lab.client(request.param)), fresh(lab.builder(roots.SUITES[0])))


@pytest.fixture
def jump(lab: Lab, fresh: Callable[[Host], Host], site: Site) -> Host:
    """Another host, to go through."""
    host = fresh(lab.builder(roots.SUITES[1]))
    site.authorize(host)
    return host


@pytest.fixture
def toor(site: Site) -> str:
    """Another login name of the builder's root: no other user may build there."""
    passwd = site.builder.read_file("/etc/passwd")
    if "toor:" not in passwd:
        site.builder.write_file("/etc/passwd", passwd + "toor:x:0:0::/root:/bin/bash\n")
    return "toor"


def hooks(client: Host) -> list[str]:
    return [command for command in client.processes().values() if re.match(r"\S*nix-ferry-hook \d$", command)]


def works(result: Output) -> bool:
    return result.stdout.startswith("/nix/store/") and "cannot build on" not in result.stderr


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


# Keys


@pytest.mark.parametrize("machine", ["ssh-ng://127.0.0.1:{port} - {key}", "ssh-ng://127.0.0.1:{port}?ssh-key={key}"])
def test_the_key_of_the_machine_line(site: Site, machine: str) -> None:
    """Only with it: ssh's own choice of keys has none that the builder accepts."""
    site.know(site.builder)
    assert works(site.build(machine.format(port=site.builder.port, key=KEY)))
    site.client.reset_store()
    refused = site.build(machine.format(port=site.builder.port, key="/root/keys/two"), check=False)
    assert "Permission denied (publickey" in refused.stderr


def pinned(site: Site, host_key: str, form: str) -> str:
    """Return a machine line with the builder's host key, in its column or in the address."""
    address = f"ssh-ng://127.0.0.1:{site.builder.port}"
    if form == "column":
        return f"{address} - {KEY} - - - - {host_key}"
    return f"{address}?base64-ssh-public-host-key={host_key.replace('=', '%3D')} - {KEY}"


@pytest.mark.parametrize("form", ["column", "parameter"])
@pytest.mark.parametrize("config", ["", "HostKeyAlias something-else"])
def test_a_pinned_host_key_needs_no_other(site: Site, form: str, config: str) -> None:
    """Whatever name ssh looks up: all have port numbers here."""
    site.config(config)
    host_key = base64.b64encode(site.builder.read_file(HOST_KEY + ".pub").encode()).decode()
    assert works(site.build(pinned(site, host_key, form)))
    assert not site.client.path("/root/.ssh/known_hosts").exists()


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ("", OTHER_KEY),
        ("StrictHostKeyChecking no", OTHER_KEY),
        ("StrictHostKeyChecking accept-new", OTHER_TYPE),
    ],
    ids=["ask", "no", "accept-new"],
)
def test_another_host_key_than_the_pinned_one_is_refused(site: Site, config: str, key: str) -> None:
    """Even to users who let ssh accept everything: here they said which key it must be.  Asked twice, because ssh might
    have added the builder's key to the file.
    """
    site.config(config)
    host_key = base64.b64encode(key.encode()).decode()
    for _ in range(2):
        result = site.build(pinned(site, host_key, "column"), check=False)
        assert result.returncode != 0
        (line,) = (line for line in result.stderr.splitlines() if "cannot build on" in line)
        assert line.startswith(f"error: cannot build on 'ssh-ng://127.0.0.1:{site.builder.port}': ")
        assert line.endswith("failed. (it is not the key in known_hosts, or in the last column of `builders`)")


def test_a_pinned_key_is_the_only_one_whatever_ssh_config_lets_in(site: Site) -> None:
    """By each of these alone ssh would accept the builder's own key, of which the line says that it is another's."""
    known = f"[127.0.0.1]:{site.builder.port} {site.builder.read_file(HOST_KEY + '.pub')}"
    site.client.write_file("/root/known", known)
    other = base64.b64encode(OTHER_KEY.encode()).decode()
    address = f"ssh-ng://127.0.0.1:{site.builder.port} - {KEY} - - - -"
    for way in (
        "GlobalKnownHostsFile /root/known",
        "NoHostAuthenticationForLocalhost yes",
        "KnownHostsCommand /bin/cat /root/known",
    ):
        site.config(way)
        assert works(site.build(address)), way
        site.client.reset_store()
        site.builder.reset_store()
        refused = site.build(f"{address} {other}", check=False)
        assert "cannot build on" in refused.stderr, way


@pytest.mark.parametrize("pinned", [False, True])
def test_a_control_connection_of_the_user_is_none_to_a_machine_with_a_pinned_key(site: Site, pinned: bool) -> None:
    """The user's own ssh may have let another key in, or be what somebody in the middle answered."""
    config = ("StrictHostKeyChecking accept-new", "ControlMaster auto", "ControlPath /root/cm", "ControlPersist 60")
    site.config("Host *", *config)
    port = str(site.builder.port)
    site.client.run(["sh", "-c", f"ssh -i {KEY} -p {port} 127.0.0.1 true </dev/null >/dev/null 2>&1"])
    other = base64.b64encode(OTHER_KEY.encode()).decode()
    address = f"ssh-ng://127.0.0.1:{port} - {KEY} - - - -"
    try:
        site.client.run(["ssh", "-O", "check", "-p", port, "127.0.0.1"])
        result = site.build(f"{address} {other}" if pinned else address, check=False)
    finally:
        site.client.run(["ssh", "-O", "exit", "-p", port, "127.0.0.1"])
    assert ("its host key was not accepted" in result.stderr) is pinned
    assert (result.returncode == 0) is not pinned


@pytest.mark.parametrize("form", ["unpadded", "known_hosts", "bare"])
def test_a_pinned_key_may_be_written_in_other_ways(site: Site, form: str) -> None:
    """As ssh-keyscan prints it, as known_hosts has it, or as it is."""
    kind, blob, *_ = site.builder.read_file(HOST_KEY + ".pub").split()
    text = {"unpadded": f"{kind} {blob} b", "known_hosts": f"b.example.org {kind} {blob}"}
    column = blob if form == "bare" else base64.b64encode(text[form].encode()).decode().rstrip("=")
    assert works(site.build(f"ssh-ng://127.0.0.1:{site.builder.port} - {KEY} - - - - {column}"))
    assert not site.client.path("/root/.ssh/known_hosts").exists()


# Addresses


def test_user_host_and_port_in_the_address(site: Site, toor: str) -> None:
    site.know(site.builder)
    assert works(site.build(f"ssh-ng://{toor}@127.0.0.1:{site.builder.port} - {KEY}"))
    assert site.logins(site.builder)[-1] == toor


def test_an_ipv6_address_reaches_ssh_without_brackets(site: Site) -> None:
    site.know(site.builder)
    site.config("Host ::1", "HostName 127.0.0.1")
    assert works(site.build(f"ssh-ng://[::1]:{site.builder.port} - {KEY}"))


def test_compression(site: Site) -> None:
    site.know(site.builder)
    address = f"ssh-ng://127.0.0.1:{site.builder.port}"
    assert works(site.build(f"{address}?compress=true - {KEY}", NIX_SSHOPTS=f"-v -E {LOG}"))
    assert "Enabling compression" in site.client.read_file(LOG)


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
def test_remote_program(site: Site, scheme: str) -> None:
    """Words of it, split by the remote shell; it may be anything that ends in Nix."""
    site.know(site.builder)
    program = {"ssh-ng": "nix-daemon", "ssh": "nix-store"}[scheme]
    site.builder.write_file("/root/nix", f'#!/bin/sh\necho "$MARK" > /root/mark\nexec {program} "$@"\n', 0o755)
    address = f"{scheme}://127.0.0.1:{site.builder.port}?remote-program=env%20MARK=here%20/root/nix"
    assert works(site.build(f"{address} - {KEY}"))
    assert site.builder.read_file("/root/mark") == "here\n"


@pytest.mark.parametrize("scheme", ["ssh-ng", "ssh"])
@pytest.mark.parametrize("store", ["local?root=/root/elsewhere", "local?root=/root/elsewhere%26log=/root/log"])
def test_remote_store(site: Site, scheme: str, store: str) -> None:
    """The build happens in that store, in a sandbox, the only place where its paths are right.

    Before 2.20 it is quoted for the remote shell; later this is up to the user, as with a stock hook.
    """
    if "%26" in store and site.client.nix_release() >= (2, 20):
        store = f"%27{store}%27"
    site.builder.configure(sandbox_paths="/bin /lib /lib64 /usr")
    site.know(site.builder)
    assert works(site.build(f"{scheme}://127.0.0.1:{site.builder.port}?remote-store={store} - {KEY}"))
    assert any("from-source" in path.name for path in site.builder.path("/root/elsewhere/nix/store").iterdir())
    assert not site.builder.path("/nix/store").exists()


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
