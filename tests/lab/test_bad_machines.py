"""Machines that cannot be used, claim too much, or go away: one clear line each, and the build ends where it can.

Real sshd, real daemons, and kills.  The oldest sshd stands for all where a login is refused: since OpenSSH 9.8 an
address is locked out for a while after that.
"""

import re
import shlex
import signal
from collections.abc import Callable

import pytest

from hook.errors import Trouble
from tests.lab import roots
from tests.lab.gates import Gates, build_gated
from tests.lab.host import Host, Output, wait_until
from tests.lab.install import EVER_S, HOOK, altered
from tests.lab.lab import Lab
from tests.lab.midway import HOOK_PROCESS, held_slots, is_clean, kill, running
from tests.lab.offload import nix_build

pytestmark = pytest.mark.lab

SCHEMES = ("ssh-ng", "ssh")

BAD = {
    "ssh-ng://refusing": (
        Trouble.AUTHENTICATION,
        r"\S+: Permission denied \(publickey\S*\)\. \(the machine refused the key; .*\)",
    ),
    "ssh-ng://unknown": (
        Trouble.HOST_KEY,
        r"No .* key is known for .*; Host key verification failed\. \(add the machine's host key .*\)",
    ),
    "ssh-ng://no-such-host.invalid": (
        Trouble.UNRESOLVED,
        r"ssh: Could not resolve hostname no-such-host\.invalid: .*",
    ),
    "ssh-ng://closed": (Trouble.REFUSED, r"ssh: connect to host 127\.0\.0\.1 port 1: Connection refused"),
    "ssh-ng://nonix@{0}": (
        Trouble.NO_NIX,
        r"bash: line 1: nix-daemon: command not found \(Nix is not installed there, .*\)",
    ),
    "ssh://nonix@{0}": (
        Trouble.NO_NIX,
        r"bash: line 1: nix-store: command not found \(Nix is not installed there, .*\)",
    ),
}
"""How the line about a machine goes on: what kind of trouble it is, and what ssh or the shell said."""

GREETING = (
    "expected the Nix protocol but got 'Welcome to the builder, greeter\\n'; a shell profile on that machine prints to "
    "standard output, it must stay silent for non-interactive logins"
)


SOME = """
builtins.genList (i: derivation {
  name = "some-${toString i}";
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "echo ${toString i} > $out" ];
}) 5
"""


@pytest.fixture
def strict(lab: Lab, fresh: Callable[[Host], Host]) -> Host:
    """A builder for bad logins.

    `nonix` who finds no program, `greeter` whose profile prints and ends, and `talker` whose only prints.
    """
    builder = fresh(lab.builder(roots.SUITES[0]))
    passwd = [line for line in builder.read_file("/etc/passwd").splitlines() if "/home/bad" not in line]
    greets = 'echo "Welcome to the builder, $USER"'
    profiles = {"nonix": "PATH=/nonexistent", "greeter": f"{greets}; exit", "talker": f"{greets}; date +%N"}
    for user, profile in profiles.items():
        passwd.append(f"{user}:x:0:0::/home/bad/{user}:/bin/bash")
        builder.write_file(f"/home/bad/{user}/.bashrc", profile + "\n")
    builder.write_file("/etc/passwd", "\n".join(passwd) + "\n")
    return builder


def introduce(client: Host, strict: Host) -> None:
    """Give `client` the ssh configuration for BAD."""
    client.trust(strict)
    good = client.read_file(f"/root/.ssh/hosts/{strict.name}").split("\n", 1)[1]
    hosts = {
        "refusing": "IdentityFile /root/.ssh/stranger\n  IdentitiesOnly yes\n" + good.replace("IdentityFile", "#"),
        "unknown": "UserKnownHostsFile /nonexistent\n" + good,
        "closed": "HostName 127.0.0.1\n  Port 1\n",
    }
    client.run(["sh", "-c", "yes | ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/stranger"])
    for name, options in hosts.items():
        client.write_file(f"/root/.ssh/hosts/{name}", f"Host {name}\n  {options}", 0o600)


def errors(result: Output) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error:")]


# Before the build


@pytest.mark.parametrize("daemon", [False, True], ids=["single-user", "daemon"])
def test_each_bad_machine_costs_one_line_and_the_build_goes_to_a_good_one(
    client: Host, strict: Host, daemon: bool
) -> None:
    """All of them at once, and all faster than the good one."""
    introduce(client, strict)
    bad = {uri.format(strict.name): f"{re.escape(kind.words)}: {said}" for uri, (kind, said) in BAD.items()}
    bad |= {f"{scheme}://greeter@{strict.name}": re.escape(GREETING) for scheme in SCHEMES}
    good = f"ssh-ng://{strict.name}"
    client.configure(hook=HOOK, builders=" ; ".join([f"{good} - - 1 1", *(f"{uri} - - 1 9" for uri in bad)]))
    if daemon:
        client.start_daemon()
    with altered(client, "hook.session.answering", ANSWER_S=EVER_S):
        result = client.run(nix_build("from-source", seed="bad"))
    assert re.findall(r"^building '\S+' on '(\S+)'", result.stderr, re.MULTILINE) == [good]
    for line, (uri, expected) in zip(errors(result), bad.items(), strict=True):
        assert re.fullmatch(f"error: cannot build on '{uri}': {expected}", line)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_a_profile_prints_before_the_protocol_is_skipped_and_told(client: Host, strict: Host, scheme: str) -> None:
    """Once per command: its other builds and connections tell nothing new."""
    client.trust(strict)
    client.configure(hook=HOOK, builders=f"{scheme}://talker@{strict.name} - - 4")
    client.write_file("/root/some.nix", SOME)
    with altered(client, "hook.protocol.handshake", NEXT_NOISE_S=EVER_S):
        result = client.run(["nix-build", "/root/some.nix", "-j0", "--no-out-link"])
    warnings = [line for line in result.stderr.splitlines() if "Welcome" in line]
    (warning,) = warnings
    assert f"'{scheme}://talker@{strict.name}' prints 'Welcome to the builder, talker\\n" in warning
    assert len(result.stdout.split()) == 5


@pytest.mark.parametrize("jobs", ["-j0", "-j1"])
def test_without_a_good_machine_nix_answers_itself(client: Host, strict: Host, jobs: str) -> None:
    """It builds here if it may; otherwise it says why it does not, after our one line."""
    introduce(client, strict)
    client.configure(hook=HOOK, builders="ssh-ng://closed")
    result = client.run([*nix_build("from-source", seed="bad"), jobs], check=False)
    ours, *its = errors(result)
    assert ours.startswith("error: cannot build on 'ssh-ng://closed': it refused the connection: ssh: connect to host")
    if jobs == "-j1":
        assert (result.returncode, its) == (0, [])
    else:
        assert result.returncode != 0
        assert re.search("(?i)unable to start any build|local builds are disabled", result.stderr)
        assert len(its) == 1


CLAIMS = """
{ name, system ? builtins.currentSystem, features ? [ ] }: derivation {
  inherit name system;
  requiredSystemFeatures = features;
  builder = "/bin/sh";
  args = [ "-c" "echo built > $out" ];
}
"""


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("--argstr system aarch64-linux", "aarch64-linux"),
        ('--arg features ["unobtainium"]', "unobtainium"),
    ],
)
def test_a_machine_that_is_not_what_its_line_says_is_told_in_stocks_words(
    client: Host, builder: Host, claim: str, said: str
) -> None:
    """The builder is the one who knows; nobody else is asked, and Nix hears it once."""
    client.trust(builder)
    client.write_file("/root/claims.nix", CLAIMS)
    said_by = {}
    for hook in (HOOK, None):
        client.configure(hook=hook, builders=f"ssh-ng://{builder.name} x86_64-linux,aarch64-linux - 1 1 unobtainium")
        command = ["nix-build", "/root/claims.nix", "-j0", "--argstr", "name", "claim", *claim.split(" ", 2)]
        result = client.run(command, check=False)
        assert result.returncode != 0
        said_by[hook] = result.stderr
    assert said_by[HOOK] == said_by[None]
    assert said_by[HOOK].count(f"on 'ssh-ng://{builder.name}' failed: ") == 1
    assert said in said_by[HOOK]


# In the middle of a build


SESSION = r"sshd(-session)?: root@notty"
DAEMON = r"nix-(daemon --stdio|store --serve)"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("victim", [SESSION, DAEMON], ids=["sshd", "nix"])
def test_a_build_whose_machine_goes_away_moves_to_another(
    client: Host, twin: Host, other_builder: Host, victim: str, scheme: str
) -> None:
    """Nix was promised a build; it hears a warning that says what happened."""
    first, second = twin, other_builder
    for host in (first, second):
        client.trust(host)
    client.configure(hook=HOOK, builders=f"{scheme}://{first.name} - - 1 9 ; {scheme}://{second.name} - - 1 1")
    gates, others = Gates(first), Gates(second)
    others.leave_open("a", "moved")
    with running(client, build_gated("a", seed="moves")) as build:
        gates.wait_for("+ a")
        kill(first, victim)
        stdout, stderr = build.communicate(timeout=60)
    assert build.returncode == 0, stderr
    assert client.read_file(stdout.strip()) == "moved\n"
    assert gates.log() == ["+ a"]
    (line,) = (line for line in stderr.splitlines() if "was lost" in line)
    end = "unexpected end of file(: Connection to 127.0.0.1 closed by remote host.|, exit status 255)"
    moved = rf"warning: '{scheme}://{first.name}' was lost \({end}\); building on '{scheme}://{second.name}'"
    assert re.fullmatch(moved, line)
    is_clean(client, first, second)


def test_a_build_that_loses_its_only_machine_again_and_again_fails_and_leaves_nothing(client: Host, twin: Host) -> None:
    """Not for ever, with one final line; and as if it had never been tried."""
    client.trust(twin)
    client.configure(hook=HOOK, builders=f"ssh-ng://{twin.name}")
    gates = Gates(twin)
    with running(client, build_gated("a", seed="fails")) as build:
        for attempt in (1, 2):
            gates.wait_for("+ a", times=attempt)
            kill(twin, SESSION)
        _, stderr = build.communicate(timeout=60)
    assert build.returncode != 0
    assert len(re.findall(rf"^error: build of '\S+' on 'ssh-ng://{twin.name}' failed: ", stderr, re.MULTILINE)) == 1
    is_clean(client, twin)
    gates.leave_open("a")
    out = client.run(build_gated("a", seed="fails")).stdout.strip()
    assert client.read_file(out) == "done\n"
    assert gates.log() == ["+ a", "+ a", "+ a", "- a"]
    is_clean(client, twin)


def test_a_build_that_lost_its_machine_waits_for_a_busy_one(lab: Lab, fresh: Callable[[Host], Host]) -> None:
    """Nix would have built it itself, had it not been accepted: now it must not fail for want of a slot."""
    client = fresh(lab.client(roots.SUITES[-1]))
    first, second = (fresh(lab.builder(suite)) for suite in roots.SUITES[1:])
    for host in (first, second):
        client.trust(host)
    client.configure(hook=HOOK, builders=f"ssh-ng://{first.name} - - 1 9 ; ssh-ng://{second.name} - - 1 1")
    gates, others = Gates(first), Gates(second)
    others.leave_open("a", "moved")
    command = build_gated("a", "b", seed="waits", options=["-j1"])
    with running(client, ["sh", "-c", f"exec {shlex.join(command)} 2> /root/said"]) as build:
        gates.wait_for("+ a")
        others.wait_for("+ b")
        first.stop_sshd()
        try:
            kill(first, SESSION)
            wait_until(lambda: "was lost" in client.read_file("/root/said"), "the loss of the first machine")
            others.let_through("b")
            stdout, _ = build.communicate(timeout=60)
        finally:
            first.start_sshd()
    assert build.returncode == 0
    assert [client.read_file(path) for path in stdout.split()] == ["moved\n", "done\n"]
    is_clean(client, first, second)


@pytest.mark.parametrize("daemon", [False, True], ids=["single-user", "daemon"])
@pytest.mark.parametrize(
    ("victim", "number"),
    [("nix-build", signal.SIGINT), (HOOK_PROCESS, signal.SIGKILL)],
    ids=["interrupt", "hook-killed"],
)
def test_a_build_that_nobody_waits_for_any_more_is_stopped_there(
    client: Host, twin: Host, daemon: bool, victim: str, number: signal.Signals
) -> None:
    """Within seconds, although it would have gone on for ever; then the same build succeeds."""
    client.trust(twin)
    client.configure(hook=HOOK, builders=f"ssh-ng://{twin.name}")
    if daemon:
        client.start_daemon()
    gates = Gates(twin)
    with running(client, build_gated("a", seed="stops")) as build:
        gates.wait_for("+ a")
        assert len(held_slots(client)) == 1
        kill(client, victim, number)
        build.communicate(timeout=30)
    assert build.returncode != 0
    is_clean(client, twin)
    gates.leave_open("a")
    out = client.run(build_gated("a", seed="stops")).stdout.strip()
    assert client.read_file(out) == "done\n"
    assert gates.log() == ["+ a", "+ a", "- a"]
    is_clean(client, twin)
