"""`nix-ferry machine add`: from an sshd that knows nobody to a build there, and what is left where that fails."""

import os
import pty
from collections.abc import Iterator

import pexpect.fdpexpect
import pytest

from tests.lab import roots
from tests.lab.host import Host
from tests.lab.install import HOOK
from tests.lab.machines import MACHINES, OTHER_HOST_KEY, newest
from tests.lab.offload import nix_build
from tests.lab.test_command import ferry

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]

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
