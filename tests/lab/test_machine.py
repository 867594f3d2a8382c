"""`nix-ferry machine`: machines added, removed and taken out of use, next to what Nix then does with them."""

import json
import os
import pty
import shlex
from collections.abc import Callable, Iterator

import pexpect.fdpexpect
import pytest

from tests.lab import roots
from tests.lab.gates import Gates, build_gated
from tests.lab.host import Host, wait_until
from tests.lab.install import EVER_S, HOOK, altered
from tests.lab.lab import Lab
from tests.lab.midway import is_clean, running
from tests.lab.offload import instantiate, nix_build
from tests.lab.test_command import ferry, outcome, verdicts

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]

MACHINES = "/etc/nix/machines"
SAID = "/root/said"
OTHER_HOST_KEY = (
    "c3NoLWVkMjU1MTkgQUFBQUMzTnphQzFsWkRJMU5URTVBQUFBSUhuQlNOd1RwWktEd1V4a1ZoR1o3clFlVElrQ1hwS0pyNmlNNFd6NG1WOXk="
)
"""One that no machine here has."""
newest = pytest.mark.parametrize("client", ["sid"], indirect=True)
"""For what is the same on every release."""


def states(client: Host) -> dict[str, tuple[str, int]]:
    """State and busy slots, by machine."""
    listed = json.loads(ferry(client, "machine", "list", "--json").stdout)
    return {entry["machine"]: (entry["state"], entry["busy"]) for entry in listed}


@newest
def test_a_disabled_machine_keeps_what_it_builds_and_gets_no_more(
    client: Host, twin: Host, other_builder: Host
) -> None:
    """A build that has its inputs there, and only waits, goes elsewhere; every command says why; enabling undoes it."""
    fast, slow = f"ssh-ng://{twin.name}", f"ssh-ng://{other_builder.name}"
    for host in (twin, other_builder):
        host.run(["nix-store", "--init"])
        client.trust(host)
    client.configure(hook=HOOK, builders=f"{fast} - - 1 9 ; {slow} - - 1 1")
    client.write_file(SAID, "")
    at_fast, at_slow = Gates(twin), Gates(other_builder)
    command = build_gated("a", "b", "c", seed="disabled", options=["-j0", "-v"])
    with running(client, ["sh", "-c", f"exec {shlex.join(command)} 2> {SAID}"]) as build:
        at_fast.wait_inside(1)
        at_slow.wait_inside(1)
        waits = f"waits for a slot on '{fast}'"
        wait_until(lambda: waits in client.read_file(SAID), "the third build")
        said = ferry(client, "machine", "disable", twin.name).stdout
        assert said.startswith(f"'{fast}' is disabled by the user since 2")
        leaves = f"leaves '{fast}': disabled by the user"
        wait_until(lambda: leaves in client.read_file(SAID), "the third build leaves")
        with running(client, ["/opt/nix-ferry/bin/nix-ferry", "machine", "drain", "--wait", fast]) as drain:
            assert drain.stdout is not None
            assert [drain.stdout.readline() for _ in range(2)] == [said, "1 build is running there\n"]
            assert states(client) == {fast: ("draining", 1), slow: ("enabled", 1)}
            at_fast.let_through(*at_fast.inside())
            assert drain.communicate(timeout=60)[0] == "nothing is running there\n"
        at_slow.let_through(*at_slow.inside())
        wait_until(lambda: len(at_slow.log()) == 3, "the third build on the other machine")
        at_slow.let_through(*at_slow.inside())
        assert len(build.communicate(timeout=60)[0].split()) == 3
    assert (len(at_fast.log()), len(at_slow.log())) == (2, 4)
    assert states(client) == {fast: ("disabled", 0), slow: ("enabled", 0)}

    shown = ferry(client, "explain", instantiate(client, "from-source", "disabled"), "--option", "max-jobs", "0").stdout
    assert verdicts(shown)[fast].startswith("disabled by the user since")
    assert outcome(shown) == f"so it goes to '{slow}'"
    checks = json.loads(ferry(client, "doctor", "--json").stdout)
    (state,) = [check for check in checks if check["check"] == "state"]
    assert (state["subject"], state["level"], state["fix"]) == (fast, "note", f"nix-ferry machine enable '{fast}'")
    assert state["text"].startswith("disabled by the user since")

    assert ferry(client, "machine", "enable", fast).stdout == f"'{fast}' is enabled\n"
    built = client.run(nix_build("from-source", seed="disabled"))
    assert f"on '{fast}'" in built.stderr
    is_clean(client, twin, other_builder)


@newest
def test_while_all_machines_are_disabled_nix_waits_and_says_so(client: Host, twin: Host) -> None:
    """And goes on by itself when one is enabled."""
    client.trust(twin)
    machine = f"ssh-ng://{twin.name}"
    client.configure(hook=HOOK, builders=machine)
    client.write_file(SAID, "")
    ferry(client, "machine", "disable", machine)
    command = shlex.join(nix_build("from-source", seed="all-disabled"))
    with running(client, ["sh", "-c", f"exec {command} 2> {SAID}"]) as build:
        waiting = f"waiting for a machine: '{machine}': disabled by the user since"
        wait_until(lambda: waiting in client.read_file(SAID), "the reason")
        ferry(client, "machine", "enable", machine)
        assert build.communicate(timeout=60)[0].startswith("/nix/store/")


@newest
def test_a_machine_is_removed_from_its_file(client: Host, twin: Host) -> None:
    """By its host or address, with all its lines; what else is in the file stays, as does who may read it."""
    client.configure(hook=HOOK)
    text = "# ours\nssh-ng://b1 - - 4 # fast\n\nssh-ng://b2 ; ssh://b1\n"
    client.write_file(MACHINES, text, 0o640)
    ferry(client, "machine", "disable", "ssh://b1")
    assert [entry[0] for entry in states(client).values()] == ["enabled", "enabled", "disabled"]
    told = ferry(client, "machine", "remove", "b1").stdout
    assert told == f"removed from {MACHINES}: ssh-ng://b1 - - 4\nremoved from {MACHINES}: ssh://b1\n"
    assert client.read_file(MACHINES) == "# ours\n\nssh-ng://b2\n"
    assert client.path(MACHINES).stat().st_mode & 0o777 == 0o640
    missing = ferry(client, "machine", "remove", "b1", check=False)
    said = "error: no machine of 'builders' is called 'b1'; there are: 'ssh-ng://b2'\n"
    assert (missing.returncode, missing.stderr) == (1, said)
    client.write_file(MACHINES, text)
    assert states(client)["ssh://b1"] == ("enabled", 0)
    inline = ferry(client, "machine", "remove", "b3", "--option", "builders", "ssh://b3", check=False)
    assert inline.stderr == "error: it is not in a file but in 'builders' itself: change it in nix.conf\n"


@newest
def test_only_who_runs_the_builds_can_disable_a_machine(client: Host) -> None:
    client.add_user("alice")
    client.configure(hook=HOOK, builders="ssh-ng://b1")
    client.start_daemon()
    client.run(["nix-store", "--init"])
    refused = ferry(client, "machine", "disable", "b1", user="alice", check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "Permission denied; run this as root" in refused.stderr
    assert states(client)["ssh-ng://b1"] == ("enabled", 0)
    for state in ("enabled", "?"):
        # Of what root has disabled, only root can tell.
        shown = ferry(client, "machine", "list", user="alice").stdout.splitlines()
        assert shown[1].split() == ["ssh-ng://b1", "x86_64-linux", "0/1", "1", "-", state, "builders"]
        ferry(client, "machine", "disable", "b1")


# Adding


PASSWORD = "correct horse"
SSHD = ("PasswordAuthentication yes", "PermitRootLogin yes", "AuthorizedKeysFile .ssh/authorized_keys")
KEY = "/root/.ssh/nix-ferry"
NIX_FERRY = "/opt/nix-ferry/bin/nix-ferry"


def box(suite: str) -> Iterator[Host]:
    """A machine that lets in root and `builder`, whom its Nix trusts, by their password."""
    with Host("box", roots.root(suite)) as host:
        host.add_user("builder")
        host.run(["chpasswd"], input=f"root:{PASSWORD}\nbuilder:{PASSWORD}\n")
        host.start_sshd(*SSHD)
        host.configure(trusted_users="root builder", system_features="big-parallel kvm", sandbox="false")
        # Whether the real machine has it must not matter.
        host.run(["sh", "-c", "[ ! -e /dev/kvm ] || mount --bind /etc/hostname /dev/kvm"])
        host.run(["nix-store", "--init"])
        host.start_daemon()
        yield host


@pytest.fixture
def old_box() -> Iterator[Host]:
    """One that refuses a login as often as it likes."""
    yield from box("bookworm")


@pytest.fixture(params=["bookworm", "sid"])
def any_box(request: pytest.FixtureRequest) -> Iterator[Host]:
    yield from box(request.param)


@pytest.fixture
def ours(client: Host) -> Host:
    """A client that knows nobody yet."""
    client.run(["rm", "-rf", "/root/.ssh", MACHINES])
    client.configure(hook=HOOK)
    return client


class Terminal:
    """`nix-ferry machine add` at a terminal of the client."""

    def __init__(self, client: Host, *arguments: str) -> None:
        self._client = client
        ours, theirs = pty.openpty()
        command = ["setsid", "--ctty", "--wait", NIX_FERRY, "machine", "add", *arguments]
        self._child = client.popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self._terminal = pexpect.fdpexpect.fdspawn(ours, timeout=60, encoding="utf-8", codec_errors="replace")
        self.said = ""

    def answer(self, question: str, answer: str) -> None:
        self._terminal.expect(question)
        self.said += self._terminal.before
        self._terminal.sendline(answer)

    def end(self) -> int:
        """What is left to say; returns the exit status."""
        self._terminal.expect(pexpect.EOF)
        self.said += self._terminal.before
        self._terminal.close()
        return self._child.wait(30)


def address(user: str, host: Host) -> str:
    return f"{user}@127.0.0.1:{host.port}"


def add_with_three_answers(ours: Host, machine: Host, user: str) -> str:
    """Key, host key, login, line and proof, by password; returns the address, at which Nix then builds."""
    target = address(user, machine)
    terminal = Terminal(ours, target)
    terminal.answer("Is that the host key of .*: ", "y")
    terminal.answer("assword: ", PASSWORD)
    terminal.answer("Write this.*: ", "y")
    assert terminal.end() == 0, terminal.said
    fingerprint = machine.run(["ssh-keygen", "-lf", "/etc/ssh/host_key.pub"]).stdout.split()[1]
    assert f"ssh-ed25519 {fingerprint}" in terminal.said
    assert "but a build there cannot use /dev/kvm: left out" in terminal.said
    assert f"built something on 'ssh-ng://{target}', of an input that only this host vouches for" in terminal.said

    line = ours.read_file(MACHINES).split()
    assert line[0] == f"ssh-ng://{target}"
    assert line[1].split(",")[0] == "x86_64-linux"
    assert (line[2], int(line[3]) > 0, float(line[4]) > 0, line[5:7]) == (KEY, True, True, ["big-parallel", "-"])
    assert not ours.path("/root/.ssh/known_hosts").exists()
    built = ours.run(nix_build("from-source", seed=f"added-{user}"))
    assert f"on 'ssh-ng://{target}'" in built.stdout + built.stderr
    return target


@pytest.mark.parametrize("client", ["bookworm", "trixie"], indirect=True)
def test_a_machine_is_added_where_nix_is_older(ours: Host, old_box: Host) -> None:
    """These tell their settings by another command, name lock files in another way, or ignore nix.conf."""
    add_with_three_answers(ours, old_box, "builder")


@newest
@pytest.mark.parametrize("user", ["root", "builder"])
def test_a_machine_is_added_with_three_answers(ours: Host, any_box: Host, user: str) -> None:
    """Then nothing is asked any more."""
    target = add_with_three_answers(ours, any_box, user)
    before = ours.read_file(MACHINES)
    again = ferry(ours, "machine", "add", target, "--yes").stdout
    assert "pinned already" in again
    assert "accepts the key, without a question" in again
    assert len(ours.read_file(MACHINES).splitlines()) == 1
    assert ours.read_file(MACHINES).split()[:3] == before.split()[:3]
    assert any_box.run(["sh", "-c", f"grep -c ^ ~{user}/.ssh/authorized_keys"]).stdout == "1\n"


@newest
def test_a_dry_run_changes_nothing(ours: Host, old_box: Host) -> None:
    """Neither before the machine lets us in nor afterwards."""
    target = address("root", old_box)
    first = ferry(ours, "machine", "add", target, "--dry-run").stdout
    assert "/root/.ssh/nix-ferry, which would be made" in first
    assert "the key would be copied to 'root@127.0.0.1'" in first
    assert not ours.path("/root/.ssh/nix-ferry").exists()
    ours.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/key"])
    old_box.write_file("/root/.ssh/authorized_keys", ours.read_file("/root/key.pub"), 0o600)
    second = ferry(ours, "machine", "add", target, "--dry-run", "--key", "/root/key", "--jobs", "7").stdout
    assert f"+ssh-ng://{target} x86_64-linux" in second
    assert " /root/key 7 " in second
    assert not ours.path(MACHINES).exists()


@newest
def test_what_was_done_before_a_failure_is_said(ours: Host, old_box: Host) -> None:
    """A wrong password, three times; the next run goes on, here with the right one."""
    target = address("root", old_box)
    terminal = Terminal(ours, target, "--yes")
    for _ in range(3):
        terminal.answer("assword: ", "wrong")
    assert terminal.end() == 1
    last = terminal.said.splitlines()[-1]
    assert last.startswith("error: the key could not be copied to 'root@127.0.0.1'; add this line")
    assert last.endswith(f"(done before that: made the key '{KEY}')")
    old_box.configure(trusted_users="root", allowed_users="nobody")
    terminal = Terminal(ours, target, "--yes")
    terminal.answer("assword: ", PASSWORD)
    assert terminal.end() == 0, terminal.said


@newest
def test_only_the_host_key_that_is_named_is_taken(ours: Host, old_box: Host) -> None:
    """By fingerprint or as a whole; with --yes alone it is said that nobody knew it."""
    target = address("root", old_box)
    ours.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/key"])
    add = ("machine", "add", target, "--key", "/root/key", "--yes")
    other = ours.run(["ssh-keygen", "-lf", "/root/key.pub"]).stdout.split()[1]
    refused = ferry(ours, *add, "--host-key", other, check=False)
    assert "which is not the one that --host-key names: somebody else may be" in refused.stderr
    assert not old_box.path("/root/.ssh").exists()
    old_box.write_file("/root/.ssh/authorized_keys", ours.read_file("/root/key.pub"), 0o600)
    public = old_box.read_file("/etc/ssh/host_key.pub")
    fingerprint = old_box.run(["ssh-keygen", "-lf", "/etc/ssh/host_key.pub"]).stdout.split()[1]
    column = old_box.run(["base64", "-w0", "/etc/ssh/host_key.pub"]).stdout
    for expected in (fingerprint, fingerprint.removeprefix("SHA256:"), public.strip(), public.split()[1], column):
        said = ferry(ours, *add, "--dry-run", "--host-key", expected).stdout
        assert f"host key: ssh-ed25519 {fingerprint}, as --host-key says\n" in said
    said = ferry(ours, *add).stdout
    assert f"host key: ssh-ed25519 {fingerprint}\n" in said
    assert "nobody here knew it: it is pinned as it is, because of --yes; --host-key would check it" in said


@pytest.mark.parametrize("client", ["bookworm", "sid"], indirect=True)
def test_who_builds_alone_has_a_file_of_machines(ours: Host, old_box: Host) -> None:
    """The host's is not theirs to change; what it has counts as before, and nothing of this is root's."""
    ours.add_user("alice")
    ours.configure(hook=None)
    ours.run(["sh", "-c", "rm -rf /nix/*; mkdir -p /nix/store /nix/var/nix; chown -R alice: /nix"])
    ours.run(["sh", "-c", "rm -rf /home/alice/.config /home/alice/.ssh; mkdir -m 700 /home/alice/.ssh"])
    ours.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/home/alice/.ssh/nix-ferry"])
    ours.run(["chown", "-R", "alice:", "/home/alice/.ssh"])
    old_box.write_file("/root/.ssh/authorized_keys", ours.read_file("/home/alice/.ssh/nix-ferry.pub"), 0o600)
    ours.run(["nix-store", "--init"], user="alice")
    target = address("root", old_box)
    ferry(ours, "install", "--yes", user="alice")
    ferry(ours, "machine", "add", target, "--yes", user="alice")
    own = "/home/alice/.config/nix/machines"
    assert ours.read_file(own).startswith(f"ssh-ng://{target} ")
    assert ours.read_file("/home/alice/.config/nix/nix.conf").endswith(f"builders = @{MACHINES} ; @{own}\n")
    again = ferry(ours, "machine", "add", target, "--yes", user="alice").stdout
    assert ("pinned already" in again, len(ours.read_file(own).splitlines())) == (True, 1)
    built = ours.run(nix_build("from-source", seed="alone"), user="alice")
    assert f"on 'ssh-ng://{target}'" in built.stderr
    assert ferry(ours, "doctor", user="alice").returncode == 0
    ferry(ours, "broker", "stop", "--now", user="alice")


@newest
def test_a_user_without_a_shell_is_told_apart(ours: Host, old_box: Host) -> None:
    """The login itself goes well."""
    ours.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/key"])
    old_box.write_file("/home/builder/.ssh/authorized_keys", ours.read_file("/root/key.pub"))
    old_box.run(["chown", "-R", "builder:", "/home/builder/.ssh"])
    old_box.run(["usermod", "-s", "/usr/sbin/nologin", "builder"])
    add = ("machine", "add", address("builder", old_box), "--key", "/root/key", "--yes")
    said = "lets us in, and then runs nothing: This account is currently not available.; give that user a shell"
    assert said in ferry(ours, *add, check=False).stderr
    old_box.run(["usermod", "-s", "/bin/sh", "builder"])
    assert ferry(ours, *add).returncode == 0


@newest
def test_who_may_not_write_the_line_is_told_so_before_anything_is_sent(ours: Host, old_box: Host) -> None:
    """Here it is somebody else's line that would have to change."""
    ours.add_user("alice")
    ours.run(["sh", "-c", "mkdir -p /nix/store /nix/var/nix; chown -R alice: /nix"])
    target = address("root", old_box)
    ours.write_file(MACHINES, f"ssh-ng://{target}\n")
    refused = ferry(ours, "machine", "add", target, "--yes", user="alice", check=False)
    assert refused.stderr == f"error: cannot write '{MACHINES}': you may not change '/etc/nix'; run this as root\n"
    assert refused.stdout == ""


@pytest.fixture
def new_box() -> Iterator[Host]:
    """One that says whom it trusts."""
    yield from box("sid")


def let_in(ours: Host, machine: Host) -> None:
    """Have `builder` of a machine that does not trust it accept a key of ours."""
    machine.configure(trusted_users="root")
    ours.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/key"])
    machine.write_file("/home/builder/.ssh/authorized_keys", ours.read_file("/root/key.pub"))
    machine.run(["chown", "-R", "builder:", "/home/builder/.ssh"])


@newest
def test_whether_to_add_a_machine_that_does_not_trust_us_is_a_question(ours: Host, new_box: Host) -> None:
    """Most builds have an input that was built here and that nobody has signed."""
    let_in(ours, new_box)
    target = address("builder", new_box)
    refused = ferry(ours, "machine", "add", target, "--key", "/root/key", "--yes", check=False)
    assert refused.returncode == 1
    assert "error: it does not trust 'builder': builds with unsigned inputs will fail there: add" in refused.stderr
    assert not ours.path(MACHINES).exists()
    terminal = Terminal(ours, target, "--key", "/root/key")
    terminal.answer("Is that the host key of .*: ", "y")
    terminal.answer("Add it anyway.*: ", "y")
    terminal.answer("Write this.*: ", "y")
    assert terminal.end() == 0, terminal.said
    assert f"built something on 'ssh-ng://{target}'" in terminal.said
    assert "vouches" not in terminal.said
    # It is there now.
    assert ferry(ours, "machine", "add", target, "--key", "/root/key", "--yes").returncode == 0


@newest
def test_a_line_that_does_not_hold_is_taken_back(ours: Host, old_box: Host) -> None:
    """This Nix lets only those build whom it trusts; the file is as before, with its comment."""
    let_in(ours, old_box)
    ours.write_file(MACHINES, "# mine\n")
    failed = ferry(ours, "machine", "add", address("builder", old_box), "--key", "/root/key", "--yes", check=False)
    assert failed.returncode == 1
    assert "error: a build there failed: " in failed.stderr
    assert "trusted-users" in failed.stderr
    assert f"undone:   '{MACHINES}' is as it was" in failed.stdout
    assert ours.read_file(MACHINES) == "# mine\n"


@newest
def test_what_cannot_be_right_ends_before_anything_is_sent(ours: Host, old_box: Host) -> None:
    """One line each: another host key than the pinned one, a key with a passphrase, or none, or a host that is none."""
    target = address("root", old_box)
    ours.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", "/root/locked"])
    ours.write_file(MACHINES, f"ssh-ng://{target} - - 1 1 - - {OTHER_HOST_KEY}\n")
    cases = {
        (target, "--yes"): "but SHA256:",
        (target, "--key", "/root/locked", "--yes"): "the key '/root/locked' has a passphrase",
        (target, "--key", "/root/none", "--yes"): "there is no key '/root/none'; without --key one is made",
        (
            "nowhere.invalid",
            "--yes",
        ): "cannot see the host key of 'nowhere.invalid': its name cannot be resolved: ssh: Could not",
        ("127.0.0.1:1", "--yes"): "cannot see the host key of '127.0.0.1': it refused the connection: ",
        ("-oProxyCommand=x", "--yes"): "host name '-oProxyCommand=x' must not start with '-'",
    }
    for arguments, said in cases.items():
        refused = (
            ferry(ours, "machine", "add", "--", *arguments[:1], check=False)
            if arguments[0][0] == "-"
            else ferry(ours, "machine", "add", *arguments, check=False)
        )
        assert refused.returncode == 1
        assert said in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    assert not old_box.path("/root/.ssh").exists()


@newest
@pytest.mark.parametrize("command", ["ping", "doctor", "machine enable {}", "machine retry {}"])
def test_a_machine_that_was_seen_to_work_is_not_left_alone_any_more(
    lab: Lab, fresh: Callable[[Host], Host], client: Host, command: str
) -> None:
    """Whoever has repaired something there looks whether it works; builds would wait for minutes all the same.

    A newer sshd would lock out who has failed to log in.
    """
    twin = fresh(lab.builder(roots.SUITES[0]))
    twin.run(["nix-store", "--init"])
    client.trust(twin)
    client.configure(hook=HOOK, builders=f"ssh-ng://{twin.name}")
    keys = twin.read_file("/etc/ssh/authorized_keys")
    twin.write_file("/etc/ssh/authorized_keys", "")
    # It is left alone until the end.
    with altered(client, "hook.errors", LATER_S=EVER_S):
        assert client.run(nix_build("from-source", seed="left"), check=False).returncode != 0

    def state() -> str:
        (machine,) = json.loads(ferry(client, "status", "--json").stdout)["machines"]
        return str(machine["state"])

    assert state() == "failed"
    assert ferry(client, "ping", check=False).returncode == 1
    assert state() == "failed"
    twin.write_file("/etc/ssh/authorized_keys", keys)
    said = ferry(client, *command.format(twin.name).split(), check=False).stdout
    assert state() == "not asked lately"
    if "retry" in command:
        assert said.startswith(f"'ssh-ng://{twin.name}' is tried again; it had failed: it refused the login: ")
    result = client.run(nix_build("from-source", seed="left"))
    assert "next try in" not in result.stderr
