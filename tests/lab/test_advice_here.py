"""What the doctor advises about this host helps, tested as in test_advice.py."""

import re

import pytest

from tests.lab.advised import advice, close_daemon
from tests.lab.host import Host
from tests.lab.install import HOOK, OUTSIDE, PREFIX
from tests.lab.offload import plain
from tests.lab.test_command import ferry
from tests.lab.test_doctor import examine, one_release

pytestmark = [pytest.mark.lab, pytest.mark.any_hook, one_release]


def test_an_installation_that_a_user_can_change(client: Host, box: Host) -> None:
    """Who can change what root runs is root."""
    client.run(["chown", "65534", PREFIX])
    try:
        text, fix = advice(client, plain(box), "build-hook")
        assert text.endswith(f"runs '{HOOK}', which others than root can change")
        assert fix.startswith("have root alone own it")
        done = ferry(client, "install", "--yes", check=False)
        assert (done.returncode, f"others than root can change '{HOOK}'" in done.stderr) == (1, True)
    finally:
        client.run(["chown", "0", PREFIX])
    assert examine(client)["build-hook"][0] == "ok"


def test_a_user_who_may_not_use_the_daemon_here(client: Host, box: Host) -> None:
    client.add_user("alice")
    close_daemon(client)
    level, text, fix = examine(client, user="alice")["daemon"]
    assert (level, fix) == ("wrong", "run 'usermod -aG nix-users alice' as root, and log in anew")
    assert text == "'alice' may not use it: '/nix/var/nix/daemon-socket' is for group 'nix-users' only"
    client.run(["usermod", "-aG", "nix-users", "alice"])
    assert "daemon" not in examine(client, user="alice")


def test_builders_that_hide_the_machines_file(client: Host, box: Host) -> None:
    client.write_file("/etc/nix/machines", f"# ours\n{plain(box)}\n")
    level, text, fix = examine(client, "--option", "builders", "")["machines"]
    assert (level, text) == ("wrong", "0 in 'builders', though /etc/nix/machines has 1 line")
    (line,) = re.findall("put '(builders = .*)' into nix.conf", fix)
    add_to_nix_conf(client, f"{line}\n")
    assert examine(client)["machines"][0] == "ok"


def test_two_files_without_a_separator(client: Host, box: Host) -> None:
    client.write_file("/etc/nix/machines", f"{plain(box)}\n")
    client.write_file("/etc/nix/more", f"ssh://{box.name}\n")
    level, text, fix = examine(client, "--option", "builders", "@/etc/nix/machines @/etc/nix/more")["builders"]
    assert (level, "is not there" in text) == ("wrong", True)
    (builders,) = re.findall("put a ';' between them: '(.*)'", fix)
    found = examine(client, "--option", "builders", builders)
    assert found["machines"][1].startswith("2 in ")
    level, text, _ = examine(client, "--option", "builders", "@/etc/nix/machines ; @/etc/nix/none")["builders"]
    assert (level, text) == ("note", "it names '/etc/nix/none', which is not there")


def test_a_mistake_in_nix_conf(client: Host, box: Host) -> None:
    """A line that ends every command of Nix, and a name that costs only its line."""
    conf = client.read_file("/etc/nix/nix.conf")
    client.write_file("/etc/nix/nix.conf", conf + "this is wrong\n")
    level, text, fix = examine(client)["Nix"]
    assert (level, "'this is wrong'" in text, fix.startswith("correct that in the file")) == ("wrong", True, True)
    client.write_file("/etc/nix/nix.conf", conf + "buidlers =\n")
    found = examine(client)
    assert found["Nix"][0] == "ok"
    assert found["nix.conf"][1] == "there is no setting 'buidlers', which Nix passes over: did you mean 'builders'?"
    client.write_file("/etc/nix/nix.conf", conf)
    assert "nix.conf" not in examine(client)


def test_an_empty_build_hook(client: Host, box: Host) -> None:
    """By which Nix builds nothing elsewhere; install mends it."""
    client.configure(build_hook="")
    level, text, fix = examine(client)["build-hook"]
    assert (level, text) == ("wrong", "the Nix daemon builds nothing elsewhere: 'build-hook' is empty")
    assert fix.startswith("run 'nix-ferry install', ")
    ferry(client, "install", "--yes")
    client.stop_daemon()
    client.start_daemon()
    assert examine(client)["build-hook"][0] == "ok"


def add_to_nix_conf(client: Host, text: str) -> None:
    client.write_file("/etc/nix/nix.conf", client.read_file("/etc/nix/nix.conf") + text)


@pytest.mark.parametrize("conf", ["nixos", "determinate"])
def test_who_makes_nix_conf_is_told_apart(client: Host, box: Host, conf: str) -> None:
    """The advice is what install would do."""
    client.configure(build_hook="/usr/bin/nix __build-remote")
    if conf == "nixos":
        client.run(["cp", "/etc/nix/nix.conf", "/nix/store/00000000000000000000000000000000-nix.conf"])
        client.run(["ln", "-sf", "/nix/store/00000000000000000000000000000000-nix.conf", "/etc/nix/nix.conf"])
        assert "services.nix-ferry.enable = true" in examine(client)["build-hook"][2]
        return
    add_to_nix_conf(client, "!include nix.custom.conf\n")
    assert "into /etc/nix/nix.custom.conf" in examine(client)["build-hook"][2]
    ferry(client, "install", "--yes")
    client.stop_daemon()
    client.start_daemon()
    assert examine(client)["build-hook"][0] == "ok"


def test_commands_of_root_that_do_without_the_daemon(client: Host, box: Host) -> None:
    """They have another configuration than the daemon, whose hook is in its environment."""
    level, text, fix = ferry_hook(client)
    assert level == "note"
    assert "but root's own commands, which do without the daemon, run '/usr/bin/nix __build-remote'" in text
    (line,) = re.findall("put '(build-hook = .*)' into ~/.config/nix/nix.conf of root", fix)
    client.write_file("/root/.config/nix/nix.conf", f"{line}\n")
    client.stop_daemon()
    client.start_daemon()
    assert ferry_hook(client)[0] == "ok"


def ferry_hook(client: Host) -> tuple[str, str, str]:
    """What is said of the hook where nothing says that there is a daemon."""
    return examine(client, env={"NIX_REMOTE": ""})["build-hook"]


def test_a_daemon_that_has_not_read_its_configuration(client: Host, box: Host) -> None:
    """Somebody wrote the line, and did not restart it: what it runs is what it knew before."""
    client.configure(build_hook="/usr/bin/nix __build-remote")
    ferry(client, "install", "--yes")
    level, text, fix = examine(client)["build-hook"]
    assert (level, fix) == ("note", "restart the Nix daemon")
    assert text == (
        f"the Nix daemon is to run '{OUTSIDE}/nix-ferry-hook', but '/etc/nix/nix.conf' was written after it started, "
        "which is when it reads that"
    )
    again = ferry(client, "install", "--yes").stdout.splitlines()
    assert again[0].startswith("nothing to change: ")
    assert again[1:] == [
        "but the Nix daemon does not know yet: '/etc/nix/nix.conf' was written after it started, "
        "which is when it reads that",
        "restart the Nix daemon: it reads its configuration when it starts",
    ]
    client.stop_daemon()
    client.start_daemon()
    assert examine(client)["build-hook"][0] == "ok"
    assert len(ferry(client, "install", "--yes").stdout.splitlines()) == 1
