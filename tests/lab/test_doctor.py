"""The doctor finds each thing that somebody has broken, and what it advises helps."""

import json
import re
import subprocess
from collections.abc import Mapping

import pytest

from tests.lab.host import Host, wait_until
from tests.lab.install import EVER_S, HOOK, OUTSIDE, altered, file_of
from tests.lab.offload import nix_build, plain
from tests.lab.test_command import ferry

pytestmark = [pytest.mark.lab, pytest.mark.any_hook]


one_release = pytest.mark.parametrize("client", ["sid"], ids=["client"], indirect=True)
"""For what Nix has no part in."""


@pytest.fixture
def healthy(client: Host, twin: Host) -> Host:
    """A client with a daemon, everything right."""
    twin.run(["nix-store", "--init"])
    client.trust(twin)
    client.configure(hook=HOOK, builders=f"{plain(twin)} - - 4")
    client.start_daemon()
    client.run(["nix-store", "--init"])
    return client


def examine(
    client: Host, *arguments: str, user: str = "root", env: Mapping[str, str] | None = None
) -> dict[str, tuple[str, str, str]]:
    """Level, text and advice, by what was looked at; the exit status fits them; nothing is bad without advice."""
    done = ferry(client, "doctor", "--json", *arguments, check=False, user=user, env=env)
    checks = json.loads(done.stdout)
    assert done.returncode == any(check["level"] == "wrong" for check in checks)
    assert [check for check in checks if check["level"] != "ok" and not check["fix"]] == []
    return {
        f"{check['subject']} {check['check']}".rstrip(): (check["level"], check["text"], check["fix"])
        for check in checks
    }


def test_a_healthy_host_is_told_so(healthy: Host, twin: Host) -> None:
    """One line a check, all of them good."""
    shown = ferry(healthy, "doctor").stdout.splitlines()
    silent = "note   user: this Nix does not say"
    assert all(line.startswith(("ok ", silent, "       → look for your name")) for line in shown)
    assert f"ok     build-hook: the Nix daemon runs '{HOOK}'" in shown
    (machine,) = [line for line in shown if plain(twin) in line]
    said = rf"ok     {plain(twin)}: Nix {twin.nix_version()}, .*; builds x86_64-linux.*; [0-9.]+ GiB free"
    assert re.fullmatch(said, machine)
    steps = ["dns", "tcp", "host-key", "login", "stdout", "nix", "store"]
    more = [
        line.split()[2] for line in ferry(healthy, "doctor", "--verbose").stdout.splitlines() if plain(twin) in line
    ]
    assert [step.rstrip(":") for step in more if step != "trust:"] == [*steps, "systems", "clock", "disk"]


def test_a_hook_that_nobody_runs_is_found(healthy: Host, twin: Host) -> None:
    """And how to have this Nix run it, which depends on the release; following the advice is enough."""
    healthy.configure(hook=None, build_hook="/usr/bin/nix __build-remote", builders=f"{plain(twin)} - - 4")
    level, text, fix = examine(healthy)["build-hook"]
    assert level == "wrong"
    assert text == "the Nix daemon runs '/usr/bin/nix __build-remote', not nix-ferry-hook"
    ignored = healthy.nix_release()[:2] == (2, 26)
    file = (
        "/root/.config/nix/nix.conf (Nix 2.26.3 ignores it in nix.conf of the host)" if ignored else "/etc/nix/nix.conf"
    )
    puts = "run 'nix-ferry install', which puts"
    assert fix == f"{puts} 'build-hook = {OUTSIDE}/nix-ferry-hook' into {file}, then restart the daemon"
    ferry(healthy, "install", "--yes")
    healthy.stop_daemon()
    healthy.start_daemon()
    assert examine(healthy)["build-hook"][0] == "ok"


@one_release
def test_root_is_told_of_the_daemon_that_others_use(healthy: Host) -> None:
    """Root's own commands need no daemon, and sudo drops what would say otherwise."""
    text = examine(healthy, env={"NIX_REMOTE": ""})["build-hook"][1]
    assert text.startswith(f"the Nix daemon runs '{HOOK}'")


def test_a_process_that_only_calls_itself_a_daemon_is_not_believed(healthy: Host) -> None:
    """Or any user could choose what root runs to look at it."""
    healthy.add_user("alice")
    healthy.run(["install", "-D", "-m", "755", "/usr/bin/sleep", "/srv/alice/nix-daemon"])
    healthy.stop_daemon()
    environ = {"NIX_CONFIG": "build-hook = /evil"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    impostor = healthy.popen(["/srv/alice/nix-daemon", "1000"], user="alice", env=environ, **quiet)
    try:
        wait_until(lambda: "/srv/alice/nix-daemon 1000" in healthy.processes().values(), "the impostor")
        healthy.start_daemon()
        assert examine(healthy)["build-hook"][:2] == ("ok", f"the Nix daemon runs '{HOOK}'")
    finally:
        healthy.end(impostor)


@one_release
def test_a_program_that_anybody_can_run_as_root_is_not_believed(healthy: Host) -> None:
    """At its prompt `su` is root's process, with the environment and under the name that its user chose."""
    healthy.add_user("alice")
    healthy.run(["mkdir", "-p", "/srv/alice"])
    healthy.run(["ln", "-sf", "/usr/bin/su", "/srv/alice/nix-daemon"])
    # Looked for in the order of their numbers.
    healthy.stop_daemon()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environ = {"NIX_CONF_DIR": "/srv/alice", "NIX_CONFIG": "build-hook = /evil"}
    impostor = healthy.popen(["/srv/alice/nix-daemon"], user="alice", env=environ, stdin=subprocess.PIPE, **quiet)
    try:
        wait_until(lambda: "/srv/alice/nix-daemon" in healthy.processes().values(), "the impostor")
        healthy.start_daemon()
        assert examine(healthy)["build-hook"][:2] == ("ok", f"the Nix daemon runs '{HOOK}'")
        assert "/srv/alice" not in ferry(healthy, "install", "--dry-run").stdout
    finally:
        healthy.end(impostor)
        assert impostor.stdin is not None
        impostor.stdin.close()


def test_a_hook_that_is_gone_is_found(healthy: Host, twin: Host) -> None:
    healthy.configure(hook="/opt/gone/bin/nix-ferry-hook", builders=f"{plain(twin)} - - 4")
    level, text, _ = examine(healthy)["build-hook"]
    assert (level, text) == ("wrong", "the Nix daemon is to run '/opt/gone/bin/nix-ferry-hook', which is no executable")


@one_release
def test_a_hook_whose_programs_are_gone_is_found(healthy: Host, twin: Host) -> None:
    """Builds go on without a word, by Nix's own hook; following the advice is enough."""
    hook = f"{OUTSIDE}/nix-ferry-hook"
    healthy.run(["mkdir", "-p", OUTSIDE])
    healthy.run(["cp", HOOK, hook])
    healthy.run(["ln", "-sfn", "/opt/gone/bin", f"{OUTSIDE}/programs"])
    healthy.configure(hook=hook, builders=f"{plain(twin)} - - 4")
    level, text, fix = examine(healthy)["build-hook"]
    assert (level, text) == ("wrong", "the hook hands every build to Nix's own hook: '/opt/gone/bin' is gone")
    assert fix == "install nix-ferry again, and run its 'nix-ferry install'"
    ferry(healthy, "install", "--yes")
    assert examine(healthy)["build-hook"][0] == "ok"
    healthy.run(["rm", "-r", OUTSIDE])


@one_release
@pytest.mark.parametrize("name", ["hook.session.build", "hook.session.session"])
def test_an_installation_that_does_not_load_is_found(healthy: Host, name: str) -> None:
    """In a part that only builds, or only what hooks start, needs."""
    module = file_of(name)
    healthy.run(["mv", module, f"{module}.away"])
    try:
        level, text, fix = examine(healthy)["build-hook"]
    finally:
        healthy.run(["mv", f"{module}.away", module])
    assert (level, fix) == ("wrong", "install nix-ferry again")
    assert "the hook hands every build to Nix's own hook: nix-ferry is not installed as a whole" in text


def test_machines_that_are_missing_or_take_nothing_are_found(healthy: Host, twin: Host) -> None:
    assert "describe a machine" in examine(healthy, "--option", "builders", "")["machines"][2]
    level, text, _ = examine(healthy, "--option", "builders", f"{plain(twin)} - - 0")["machines"]
    assert (level, text) == ("wrong", "1 in 'builders', and none takes a job")


def test_a_line_that_cannot_be_used_is_found(healthy: Host, twin: Host) -> None:
    """With file and line; the good machine is still looked at."""
    healthy.write_file("/etc/nix/machines", f"{plain(twin)} - - 4\nssh-ng://other - - many\n")
    found = examine(healthy, "--option", "builders", "@/etc/nix/machines")
    assert found["builders"][1].startswith("/etc/nix/machines:2: ignoring 'ssh-ng://other - - many': column 4")
    assert found["machines"][1].startswith("1 in 'builders = @/etc/nix/machines'")
    assert found[f"{plain(twin)} nix"][0] == "ok"


def test_a_mistake_in_the_configuration_is_found(healthy: Host) -> None:
    """Hooks go on with the defaults; the doctor and ping say so, too."""
    healthy.write_file("/etc/nix/ferry.toml", "look-ahaed = 1\n")
    try:
        level, text, _ = examine(healthy)["ferry.toml"]
        assert "look-ahaed" in ferry(healthy, "ping").stderr
    finally:
        healthy.run(["rm", "/etc/nix/ferry.toml"])
    assert level == "wrong"
    assert "did you mean 'look-ahead'?" in text


def test_a_machine_that_cannot_be_reached_is_found(healthy: Host, twin: Host) -> None:
    """At the step that fails, and nothing after it; all at once, so that one of them holds up none."""
    machines = [f"ssh-ng://{name}" for name in ("nowhere.invalid", f"{twin.name}:1", f"stranger@{twin.name}")]
    found = examine(healthy, "--option", "builders", " ; ".join(machines))
    steps = ["dns", "tcp", "login"]
    for machine, step, said in zip(
        machines, steps, ("cannot resolve", "Connection refused", "Permission denied"), strict=True
    ):
        level, text, fix = found[f"{machine} {step}"]
        assert (level, bool(fix)) == ("wrong", True)
        assert said in text
        assert f"{machine} nix" not in found
    assert f"127.0.0.1 port {twin.port} is open" in found[f"{machines[2]} tcp"][1]


@one_release
def test_what_ssh_is_configured_to_do_is_what_is_checked(healthy: Host, twin: Host) -> None:
    """A HostName that nobody knows, a way through another machine, and what ssh itself does not understand."""
    machines = {name: f"ssh-ng://{name}" for name in ("renamed", "behind")}
    healthy.write_file(
        "/root/.ssh/hosts/odd",
        f"Host renamed\n  HostName gone.invalid\nHost behind\n  HostName behind\n  ProxyJump {twin.name}\n",
        0o600,
    )
    builders = ("--option", "builders", " ; ".join(machines.values()))
    try:
        found = examine(healthy, *builders)
        healthy.write_file("/root/.ssh/hosts/odd", "Hostt *\n")
        broken = examine(healthy, *builders)
    finally:
        healthy.run(["rm", "/root/.ssh/hosts/odd"])
    level, text, fix = found["ssh-ng://renamed dns"]
    assert (level, fix) == ("wrong", "correct that HostName, or have DNS or /etc/hosts know it")
    assert text.startswith("cannot resolve 'gone.invalid' (HostName of 'renamed' in ssh's configuration): ")
    through = f"ProxyJump {twin.name}, and not"
    assert [through in found[f"ssh-ng://behind {step}"][1] for step in ("dns", "tcp")] == [True, True]
    assert any(key.startswith("ssh-ng://behind") and value[0] == "wrong" for key, value in found.items())
    assert "Bad configuration option: hostt" in broken["ssh-ng://behind dns"][1]


@one_release
def test_a_machine_with_other_store_paths_is_found(healthy: Host, twin: Host) -> None:
    """Its Nix was made for, or told, another store directory."""
    daemon = '#!/bin/sh\nNIX_STORE_DIR=/other/store exec nix-daemon "$@"\n'
    twin.write_file("/usr/local/bin/other-daemon", daemon, 0o755)
    address = f"{plain(twin)}?remote-program=/usr/local/bin/other-daemon"
    try:
        level, text, fix = examine(healthy, "--option", "builders", address)[f"{address} store"]
    finally:
        twin.run(["rm", "-rf", "/usr/local/bin/other-daemon", "/other"])
    assert (level, "is not in the Nix store" in text, "store directory" in fix) == ("wrong", True, True)


def test_a_machine_whose_login_shell_talks_is_found(healthy: Host, twin: Host) -> None:
    """The wiki's "serialised integer … is too big"; worse if nothing of Nix follows soon."""
    for more, soon_s, expected, said in (
        ("", EVER_S, "note", "is heard before Nix"),
        ("; sleep 8", 2.0, "wrong", "expected the Nix"),
    ):
        twin.write_file("/root/.bashrc", f"echo 'Welcome, stranger'{more}\n")
        with altered(healthy, "hook.protocol.handshake", NEXT_NOISE_S=soon_s):
            level, text, fix = examine(healthy)[f"{plain(twin)} stdout"]
        assert (level, "only on a terminal" in fix) == (expected, True)
        assert "'Welcome, stranger\\n'" in text
        assert said in text


def test_a_machine_that_does_not_trust_the_user_is_found(healthy: Host, twin: Host) -> None:
    """From Nix 2.15 on, a daemon says so."""
    twin.add_user("visitor")
    twin.start_daemon()
    address = f"ssh-ng://visitor@{twin.name}"
    found = examine(healthy, "--option", "builders", address)
    assert "visitor" in found[f"{address} login"][1]
    if twin.nix_release() < (2, 15):
        assert f"{address} trust" not in found
    else:
        level, text, fix = found[f"{address} trust"]
        assert (level, "does not trust you" in text, "trusted-users" in fix) == ("wrong", True, True)


def test_a_store_of_an_unknown_format_is_found(healthy: Host) -> None:
    """Builds then go through the stock hook."""
    healthy.write_file("/nix/var/nix/db/schema", "99")
    level, text, _ = examine(healthy)["store"]
    assert (level, "stock hook" in text, "99" in text) == ("note", True, True)


def test_a_machine_says_what_it_can_do(healthy: Host, twin: Host) -> None:
    """Next to what its line claims."""
    level, text, _ = examine(healthy)[f"{plain(twin)} systems"]
    assert level == "ok"
    assert re.fullmatch(r"builds x86_64-linux.* with .*big-parallel.*", text)
    line = f"{plain(twin)} x86_64-linux,riscv64-linux - 4 1 big-parallel,unobtainium"
    level, text, fix = examine(healthy, "--option", "builders", line)[f"{plain(twin)} systems"]
    assert level == "note"
    assert "its line claims system 'riscv64-linux', feature 'unobtainium', which its Nix does not have" in text
    assert "'system-features'" in fix
    twin.configure(experimental_features="nix-command ca-derivations")
    line = f"{plain(twin)} x86_64-linux - 4 1 big-parallel,ca-derivations"
    level, text, _ = examine(healthy, "--option", "builders", line)[f"{plain(twin)} systems"]
    assert (level, "ca-derivations" in text) == ("ok", True)


@one_release
def test_a_machine_with_another_time_is_found(healthy: Host, twin: Host) -> None:
    """Clocks are the kernel's, which all hosts here share: only what it says is wrong."""
    twin.write_file("/usr/local/bin/date", '#!/bin/sh\nexec /bin/date --date="2 hours ago" "$@"\n', 0o755)
    try:
        level, text, fix = examine(healthy)[f"{plain(twin)} clock"]
    finally:
        twin.run(["rm", "/usr/local/bin/date"])
    assert (level, fix) == ("note", "set the clocks, by NTP for example")
    assert re.search(r"its clock is 7\d\d\d s behind the one here", text)


@one_release
def test_a_machine_with_a_full_disk_is_found(healthy: Host, twin: Host) -> None:
    twin.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", "/nix/store"])
    try:
        level, text, fix = examine(healthy)[f"{plain(twin)} disk"]
    finally:
        twin.run(["umount", "/nix/store"])
    assert (level, "its store has only 4 MiB left" in text, "nix-collect-garbage" in fix) == ("note", True, True)


@one_release
def test_who_holds_the_slots_is_told(healthy: Host, twin: Host) -> None:
    """Another hook of this host, say, which may hang."""
    assert examine(healthy)["slots"][:2] == ("ok", "all are free")
    healthy.run(["mkdir", "-p", "/nix/var/nix/current-load"])
    file = f"/nix/var/nix/current-load/{plain(twin).replace('/', '_')}-2"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    holder = healthy.popen(["flock", file, "sleep", "1000"], **quiet)
    try:
        wait_until(lambda: "sleep 1000" in healthy.processes().values(), "the lock")
        text = examine(healthy)["slots"][1]
    finally:
        healthy.end(holder)
    assert re.fullmatch(rf"1 of 4 of '{plain(twin)}' \(process \d+, .*\) are busy", text)


@one_release
def test_who_uploads_and_what_is_left_over_is_told(healthy: Host, twin: Host) -> None:
    """A process that outlived its stock hook, say; and the slots of a machine that is gone."""
    assert [examine(healthy)[subject][0] for subject in ("uploads", "leftovers")] == ["ok", "ok"]
    directory = "/nix/var/nix/current-load"
    healthy.write_file(f"{directory}/ssh-ng:__gone-0", "")
    file = f"{directory}/{plain(twin).replace('/', '_')}.upload-lock"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    holder = healthy.popen(["flock", file, "sleep", "1000"], **quiet)
    try:
        wait_until(lambda: "sleep 1000" in healthy.processes().values(), "the lock")
        found = examine(healthy)
    finally:
        healthy.end(holder)
    level, text, fix = found["uploads"]
    assert (level, fix.startswith("end process ")) == ("note", True)
    assert re.fullmatch(rf"that to '{plain(twin)}' is held by process \d+, .*", text)
    assert found["leftovers"][:2] == (
        "note",
        f"of machines that are not in 'builders', or of hooks that were killed: '{directory}/ssh-ng:__gone-0'",
    )


@one_release
def test_the_broker_is_told_of_dead_or_alive(healthy: Host) -> None:
    """What a killed one leaves does no harm."""
    assert examine(healthy)["broker"][:2] == ("ok", "none runs; the next build starts one")
    healthy.run(nix_build("from-source", seed="broker"))
    assert re.match(r"process \d+, which writes '/nix/var/nix/nix-ferry/broker.log'", examine(healthy)["broker"][1])
    healthy.stop_broker()
    level, text, _ = examine(healthy)["broker"]
    assert level == "note"
    assert re.fullmatch(r"none runs; one that was killed has left '/nix/var/nix/nix-ferry/[0-9a-f]{8}\.sock'", text)


def test_somebody_who_is_not_root_is_told_what_he_cannot_see(healthy: Host, twin: Host) -> None:
    """What fails for him need not fail for the daemon."""
    healthy.add_user("alice")
    found = examine(healthy, user="alice")
    assert "root" in found["build-hook"][2]
    level, text, fix = found[f"{plain(twin)} dns"]
    assert (level, text.startswith("not for you: "), "as root" in fix) == ("note", True, True)
    if healthy.nix_release() >= (2, 19):
        assert found["user"][1].startswith("the daemon does not trust you")
