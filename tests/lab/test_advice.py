"""What the doctor advises about a machine helps.

Each test breaks something, reads the advice, does what it says and looks again.  Advice about this host is in
test_advice_here.py.
"""

import socket
from contextlib import suppress

import pytest

from tests.lab.advised import VISITOR, advice, close_daemon, is_well, serve
from tests.lab.container import GUARD_S
from tests.lab.host import Host, wait_until
from tests.lab.machines import OTHER_HOST_KEY
from tests.lab.offload import plain
from tests.lab.test_doctor import examine, one_release

pytestmark = [pytest.mark.lab, pytest.mark.any_hook, one_release]


def test_a_machine_without_nix(client: Host, box: Host) -> None:
    box.run(["rm", "/usr/bin/nix-daemon"])
    box.run(["ln", "-sf", "/usr/bin/nix", "/opt/nix-daemon"])
    try:
        text, fix = advice(client, plain(box), f"{plain(box)} nix")
        assert "command not found" in text
        assert "'?remote-program=/PATH/TO/nix-daemon'" in fix
        assert is_well(client, f"{plain(box)}?remote-program=/opt/nix-daemon")
    finally:
        box.run(["mv", "/opt/nix-daemon", "/usr/bin/"])


def test_a_machine_whose_disk_is_full(client: Host, box: Host) -> None:
    """Its Nix cannot even begin."""
    box.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", "/nix/var/nix/db"])
    try:
        text, fix = advice(client, plain(box), f"{plain(box)} nix")
        assert "its disk is full" in text
        assert fix.startswith("make room there")
        box.run(["mount", "-o", "remount,size=16m", "/nix/var/nix/db"])
        assert is_well(client, plain(box))
    finally:
        box.run(["umount", "/nix/var/nix/db"])


@pytest.mark.parametrize("option", ["MaxStartups 1:100:1", "PerSourceMaxStartups 1"])
def test_an_sshd_that_turns_connections_away(client: Host, box: Host, option: str) -> None:
    """Because others are about to log in; how far it lets ssh come before is a matter of chance."""
    serve(client, box, option, "LoginGraceTime 0")
    waiting: list[socket.socket] = []

    def greeted() -> bool:
        """Whether one of them is let in at last: whoever looked whether sshd listens may be there still."""
        waiting.append(socket.create_connection(("127.0.0.1", box.port), timeout=GUARD_S))
        with suppress(ConnectionResetError):
            return waiting[-1].recv(4) == b"SSH-"
        return False

    try:
        wait_until(greeted, "a connection")
        found = examine(client, "--option", "builders", plain(box))
    finally:
        for connection in waiting:
            connection.close()
    ((title, text, fix),) = [(title, text, fix) for title, (level, text, fix) in found.items() if level == "wrong"]
    assert title.split()[1] in ("tcp", "login")
    assert "it refused the connection: " in text
    assert "MaxStartups" in fix
    serve(client, box)
    assert is_well(client, plain(box))


@pytest.mark.parametrize(
    ("expire", "said", "help"),
    [
        ("-d 2020-01-01 -M 1", "Your password has expired", "chage -M -1 visitor"),
        ("-E 2020-01-01", "Your account has expired", "chage -E -1 visitor"),
    ],
)
def test_an_account_that_has_expired(client: Host, box: Host, expire: str, said: str, help: str) -> None:  # noqa: A002
    """The key is the right one."""
    machine = f"ssh-ng://{VISITOR}@{box.name}"
    serve(client, box, "UsePAM yes")
    box.run(["chage", *expire.split(), VISITOR])
    text, fix = advice(client, machine, f"{machine} login")
    assert said in text
    assert f"'{help}'" in fix
    box.run(help.split())
    assert is_well(client, machine)


@pytest.mark.parametrize(
    ("shell", "said"),
    [
        ("echo This account is currently not available.; exit 1", "the login shell of that user there is nologin"),
        ("exit 1", "nothing can be run there: it says nothing"),
        ("echo Go away; exit 1", "nothing can be run there: it answers 'Go away'"),
    ],
)
def test_a_user_without_a_shell(client: Host, box: Host, shell: str, said: str) -> None:
    """Which is no matter of profiles."""
    machine = f"ssh-ng://{VISITOR}@{box.name}"
    box.write_file("/usr/local/bin/no-shell", f"#!/bin/sh\n{shell}\n", 0o755)
    box.run(["usermod", "-s", "/usr/local/bin/no-shell", VISITOR])
    text, fix = advice(client, machine, f"{machine} login")
    assert said in text
    assert f"give '{VISITOR}' a shell there ('usermod -s /bin/sh')" in fix
    box.run(["usermod", "-s", "/bin/sh", VISITOR])
    assert is_well(client, machine)


def test_a_user_with_sftp_only(client: Host, box: Host) -> None:
    machine = f"ssh-ng://{VISITOR}@{box.name}"
    serve(client, box, f"Match User {VISITOR}", "ForceCommand internal-sftp", "Match all")
    text, fix = advice(client, machine, f"{machine} login")
    assert text.count("the sshd there gives that user sftp and nothing else") == 1
    assert "no ForceCommand" in fix
    serve(client, box)
    assert is_well(client, machine)


def test_a_login_for_the_other_scheme(client: Host, box: Host) -> None:
    """It runs Nix whatever it is told, which is no want of a shell."""
    keys = box.read_file("/etc/ssh/authorized_keys")
    # Of the first key alone it would be that of whichever host was trusted first.
    limited = "".join(f'command="nix-store --serve --write" {key}\n' for key in keys.splitlines())
    box.write_file("/etc/ssh/authorized_keys", limited)
    try:
        _, fix = advice(client, plain(box), f"{plain(box)} nix")
        assert fix == "a login there runs the program for 'ssh://': write that instead"
        assert is_well(client, f"ssh://{box.name}")
    finally:
        box.write_file("/etc/ssh/authorized_keys", keys)


def test_a_shell_that_talks_is_named(client: Host, box: Host) -> None:
    box.write_file("/root/.bashrc", "echo Hello\n")
    level, _, fix = examine(client, "--option", "builders", plain(box))[f"{plain(box)} stdout"]
    assert level == "note"
    assert fix == "have the profile of /bin/bash print only on a terminal there: [[ $- == *i* ]]"
    box.write_file("/root/.bashrc", "[[ $- == *i* ]] && echo Hello\n:\n")
    level, text, _ = examine(client, "--option", "builders", plain(box))[f"{plain(box)} stdout"]
    assert (level, text) == ("ok", "nothing but Nix is heard")


def test_a_user_who_may_not_use_the_daemon_there(client: Host, box: Host) -> None:
    """Debian gives its socket to a group."""
    machine = f"ssh-ng://{VISITOR}@{box.name}"
    close_daemon(box)
    text, fix = advice(client, machine, f"{machine} nix")
    assert "Permission denied" in text
    assert f"'usermod -aG nix-users {VISITOR}'" in fix
    box.run(["usermod", "-aG", "nix-users", VISITOR])
    assert is_well(client, machine)


def test_a_key_with_a_passphrase(client: Host, box: Host) -> None:
    key = new_key(client, box, "secret")
    line = f"ssh-ng://strict - {key}"
    text, fix = advice(client, line, "ssh-ng://strict login")
    assert f"the key '{key}' has a passphrase, and nobody is there to type it for a build" in text
    assert f"'ssh-keygen -p -N \"\" -f {key}'" in fix
    client.run(["ssh-keygen", "-q", "-p", "-P", "secret", "-N", "", "-f", key])
    assert is_well(client, line)


def test_a_key_that_others_may_read(client: Host, box: Host) -> None:
    key = new_key(client, box)
    client.run(["chmod", "644", key])
    line = f"ssh-ng://strict - {key}"
    _, fix = advice(client, line, "ssh-ng://strict login")
    assert fix == f"chmod 600 {key}"
    client.run(fix.split())
    assert is_well(client, line)


def test_a_key_that_is_not_there(client: Host, box: Host) -> None:
    """It is a mistake even where ssh gets in by another one."""
    key = new_key(client, box)
    text, fix = advice(client, "ssh-ng://strict - /root/other", "ssh-ng://strict login")
    assert "the key '/root/other' is not there" in text
    assert fix == "make it, or name another key in the 3rd column (builders)"
    assert is_well(client, f"ssh-ng://strict - {key}")
    level, text, more = examine(client, "--option", "builders", f"{plain(box)} - /root/other")[f"{plain(box)} login"]
    assert (level, more) == ("note", fix)
    assert "by another key than that of the line: the key '/root/other' is not there" in text


def new_key(client: Host, box: Host, passphrase: str = "") -> str:
    """A key that the machine takes, where no other one counts: at the name `strict`."""
    key = "/root/new-key"
    client.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", key])
    accepted = box.read_file("/etc/ssh/authorized_keys")
    box.write_file("/etc/ssh/authorized_keys", accepted + client.read_file(f"{key}.pub"))
    client.trust(box, "strict")
    block = client.read_file("/root/.ssh/hosts/strict")
    kept = [line for line in block.splitlines() if "IdentityFile" not in line]
    client.write_file("/root/.ssh/hosts/strict", "\n".join([*kept, "  IdentitiesOnly yes", "  IdentityFile none\n"]))
    return key


def test_a_host_key_that_is_not_the_pinned_one(client: Host, box: Host) -> None:
    """To make known what ssh knows already would not help."""
    line = f"{plain(box)} - - 4 1 - - "
    text, fix = advice(client, line + OTHER_HOST_KEY, f"{plain(box)} host-key")
    assert "the last column of the line pins another key" in text
    assert "'base64 -w0 /etc/ssh/ssh_host_ed25519_key.pub' on the machine" in fix
    assert is_well(client, line + box.run(["base64", "-w0", "/etc/ssh/host_key.pub"]).stdout)


def test_a_host_key_column_that_holds_none(client: Host, box: Host) -> None:
    """The address has nothing to do with it."""
    line = f"{plain(box)} - - 4 1 - - "
    text, fix = advice(client, line + "cnViYmlzaA==", f"{plain(box)} host-key")
    assert "the public host key is base64 of 'rubbish'" in text
    assert "'base64 -w0 /etc/ssh/ssh_host_ed25519_key.pub'" in fix
    assert "address" not in fix
    assert is_well(client, line + box.run(["base64", "-w0", "/etc/ssh/host_key.pub"]).stdout)


def test_a_host_key_that_has_changed(client: Host, box: Host) -> None:
    """Its machine was set up anew, say."""
    known = f"/root/.ssh/known_hosts.{box.name}"
    right = client.read_file(known)
    client.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/another"])
    client.write_file(known, right.split()[0] + " " + client.read_file("/root/another.pub"))
    text, fix = advice(client, plain(box), f"{plain(box)} host-key")
    assert "its host key was not accepted" in text
    assert f"ssh-keygen -f '{known}' -R '{right.split()[0]}'" in fix
    client.run(["ssh-keygen", "-f", known, "-R", right.split()[0]])
    client.write_file(known, right)
    assert is_well(client, plain(box))


def test_a_kind_of_store_that_there_is_not(client: Host, box: Host) -> None:
    machine = f"sshng://{box.name}"
    text, fix = advice(client, machine, f"{machine} address")
    assert text == "no Nix knows stores of the kind 'sshng': did you mean 'ssh-ng'? (builders)"
    assert fix == "correct the 1st column (builders)"
    assert is_well(client, machine.replace("sshng", "ssh-ng"))
