"""What `nix-ferry doctor` says of one machine: a check for each step on the way to a build there, up to one that fails.

Pure: what was found goes in.  Tested in test_machine.py, and in tests/lab/test_doctor.py by breaking each step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hook.cli.doctor import storekinds
from hook.cli.doctor.check import Check, Level
from hook.cli.probe.condition import CLOCK_OFF_S, LOW_DISK_KIB, Condition, Shell
from hook.cli.probe.ping import Pong
from hook.cli.probe.way import Way
from hook.errors import Trouble
from hook.machines.builders import Machine
from hook.machines.identity import REMOTE_PROGRAMS
from hook.protocol.handshake import NO_SHELL
from hook.remote.diagnosis import CLOSED, LOGIN_REFUSED, OTHER_HOST_KEY

STEPS = ("dns", "tcp", "host-key", "login", "stdout", "nix", "store")
"""What must go well before a machine is of any use, in this order."""

STEP_OF = {
    Trouble.UNRESOLVED: "dns",
    Trouble.UNREACHABLE: "tcp",
    Trouble.REFUSED: "tcp",
    Trouble.TIMED_OUT: "tcp",
    Trouble.HOST_KEY: "host-key",
    Trouble.AUTHENTICATION: "login",
    Trouble.OWN_STORE: "store",
}
"""Where it has failed; everything else is for Nix to say."""

NOISE = "expected the Nix protocol but got"
OTHER_STORE = "is not in the Nix store"
NO_KEY = "the public host key is"
SUMMARY = ("nix", "sharing", "systems", "disk")
"""The checks that say more than that all is well."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What is known of one machine.  `disabled` says since when the user has taken it out of use.

    `resolver` and `user` are those of this host; `as_daemon` is whether builds log in there as this user does.
    `shell` is what a machine said that let us in, and then was of no use.
    """

    machine: Machine
    way: Way | None
    pong: Pong
    condition: Condition | None
    disabled: str | None
    resolver: str
    user: str
    as_daemon: bool
    shell: Shell | None = None


def check_machine(found: Findings) -> list[Check]:
    """All checks of it, with those that do not matter to builds now made notes."""
    checks = [replace(check, subject=found.pong.machine) for check in _checks(found)]
    if found.disabled:
        fix = f"nix-ferry machine enable '{found.machine.uri.text}'"
        checks = [replace(check, level=_at_most_a_note(check.level)) for check in checks]
        return [Check(found.pong.machine, Level.NOTE, found.disabled, fix, "state"), *checks]
    if not found.as_daemon:
        return [_not_for_you(check) if check.level is Level.WRONG else check for check in checks]
    return checks


def shown(checks: Sequence[Check], *, verbose: bool) -> Sequence[Check]:
    """What to show of a machine, or of a part of this host: all of it, or what is not well, or one line."""
    if verbose or not checks[0].check:
        return checks
    if not_well := [check for check in checks if check.level is not Level.OK]:
        return not_well
    said = "; ".join(check.text for check in checks if check.check in SUMMARY)
    return [Check(checks[0].subject, Level.OK, said)]


def _at_most_a_note(level: Level) -> Level:
    return Level.NOTE if level is Level.WRONG else level


def _not_for_you(check: Check) -> Check:
    fix = "run this as root: the daemon logs in as root, with root's keys and ssh_config"
    return replace(check, level=Level.NOTE, text=f"not for you: {check.text}", fix=fix)


def _checks(found: Findings) -> Iterator[Check]:
    uri, origin = found.machine.uri, found.machine.origin
    if storekinds.is_for_stock(uri):
        text = f"builds there are left to the stock hook, which knows the kind '{uri.scheme}'"
        yield Check("", Level.NOTE, text, "nothing to do, or use an address with ssh-ng:// for a machine that has it")
        return
    if wrong := storekinds.unknown(uri):
        yield Check("", Level.WRONG, f"{wrong} ({origin})", f"correct the 1st column ({origin})", "address")
        return
    failed = _failed_step(found)
    steps = _steps(found)
    for step in STEPS:
        text, fix = steps.get(step, ("", ""))
        if step == failed:
            yield _failure(found, step, text, fix)
            return
        if text:
            # What did not work from here need not keep ssh from getting on: it may have a connection already.
            yield Check("", Level.NOTE if fix else Level.OK, text, fix, step)
    if found.way is not None and (path := found.way.shares):
        # Without a path ssh shares nothing, and each session logs in.
        how = "each build logs in by itself" if path == "none" else f"builds go through the control connection '{path}'"
        yield Check("", Level.OK, f"{how}, as ssh's configuration has it", "", "sharing")
    yield from _conditions(found)


def _failed_step(found: Findings) -> str:
    """The step that a build would not get over; empty if there is none."""
    error = found.pong.error
    if not error:
        return ""
    if found.way is not None and found.way.error:
        return "dns"
    if NO_KEY in error:
        return "host-key"
    if _runs_nothing(found):
        return "login"
    if NOISE in error:
        return "stdout"
    if OTHER_STORE in error:
        return "store"
    if found.pong.advice == CLOSED:
        return "login"
    return STEP_OF.get(found.pong.trouble or Trouble.OTHER, "nix")


def asks_for_shell(pong: Pong) -> bool:
    """Whether the login shell matters: it talks, or ssh let us in, as far as is known, to something of no use."""
    of_no_use = bool(pong.error) and pong.trouble in (Trouble.LOST, Trouble.OTHER, Trouble.PROTOCOL)
    return of_no_use or bool(pong.noise)


def _runs_nothing(found: Findings) -> bool:
    """Whether the machine lets us in, and then runs no command; one that runs Nix whatever it is told is no such."""
    shell, error = found.shell, found.pong.error
    if shell is None or shell.runs:
        return False
    if NOISE in error:
        return bool(shell.said) and shell.said.split()[0] in error
    return found.pong.trouble is not Trouble.PROTOCOL


def _steps(found: Findings) -> dict[str, tuple[str, str]]:
    """What was found of each step, and what helps if that is not well."""
    pong, way = found.pong, found.way
    steps = {}
    if way is not None:
        steps["dns"] = _dns(found, way)
        if not (way.error or way.unresolved):
            steps["tcp"] = _tcp(way)
        steps["host-key"] = "accepted", ""
        steps["login"] = _login(found, way)
        steps["stdout"] = "nothing but Nix is heard", ""
        if pong.noise:
            text = f"'{pong.noise}' is heard before Nix: it is skipped here and fails with stock Nix"
            steps["stdout"] = text, _help("stdout", found)
    if not pong.error:
        steps["nix"] = f"{pong.says}, connected in {(pong.connect_s or 0) * 1e3:.0f} ms", ""
        steps["store"] = "it takes the store paths of this host, and is another store", ""
    return steps


def _failure(found: Findings, step: str, text: str, fix: str) -> Check:
    """The step that failed, in the words of ssh or Nix where they know more than what was seen from here."""
    error = found.pong.error.removesuffix(f" ({found.pong.advice})")
    if step not in ("dns", "tcp"):
        text, fix = error, ""
    elif not fix:
        text = f"{text}, but {error}" if text else error
    if not fix:
        more, fix = _known(step, found)
        text = f"{text}; {more}" if more else text
    return Check("", Level.WRONG, f"{text} ({found.machine.origin})", fix, step)


def _known(step: str, found: Findings) -> tuple[str, str]:
    """What was seen from here of the cause, and what helps."""
    way, shell, advice, origin = found.way, found.shell, found.pong.advice, found.machine.origin
    if step == "login" and shell is not None and _runs_nothing(found):
        said = f"it answers '{shell.said}'" if shell.said else "it says nothing"
        cause = next((cause for words, cause in NO_SHELL.items() if words.decode() in shell.said), "")
        return "" if cause and cause in found.pong.error else cause or f"nothing can be run there: {said}", (
            f"give '{way.user if way else 'that user'}' a shell there ('usermod -s /bin/sh'), whose profile does not "
            "end it, and no ForceCommand or ChrootDirectory in sshd_config; or log in as another one, by 'USER@' in "
            f"the address ({origin})"
        )
    if step == "login" and way is not None and way.key and advice != CLOSED:
        return way.key, way.key_fix
    if NO_KEY in found.pong.error:
        return "", f"put what 'base64 -w0 /etc/ssh/ssh_host_ed25519_key.pub' prints there into the column ({origin})"
    if found.machine.public_host_key and step == "host-key":
        return "the last column of the line pins another key", (
            f"if the machine is meant to have another one, put it there ({origin}): 'base64 -w0 "
            "/etc/ssh/ssh_host_ed25519_key.pub' on the machine prints it; otherwise somebody else answers there"
        )
    if found.pong.trouble is Trouble.NO_NIX:
        return "", (
            "install Nix there, or have PATH of a non-interactive login lead to it, or name its program in the address "
            f"'?remote-program=/PATH/TO/{REMOTE_PROGRAMS[found.machine.uri.scheme][0]}' ({origin})"
        )
    if advice and advice != LOGIN_REFUSED and step != "host-key":
        return "", advice.replace("USER", way.user) if way is not None and way.user else advice
    return "", _help(step, found)


def _dns(found: Findings, way: Way) -> tuple[str, str]:
    alias = found.machine.uri.host
    name = f"'{way.host}'" + (f" (HostName of '{alias}' in ssh's configuration)" if way.host != alias else "")
    if way.error:
        return way.error, "correct what it names; 'ssh -G HOST' shows what ssh understands"
    if way.through:
        return f"{name} is left to {way.through}, and not looked up here", ""
    if way.unresolved:
        where = "that HostName" if way.host != alias else f"the name in the line ({found.machine.origin})"
        text = f"cannot resolve {name}: {way.unresolved} ({found.resolver})"
        return text, f"correct {where}, or have DNS or /etc/hosts know it"
    addresses = [address for address, _ in way.closed] + [way.open_at] * bool(way.open_at)
    return f"{name} is {', '.join(addresses)}", ""


def _login(found: Findings, way: Way) -> tuple[str, str]:
    text = f"as '{way.user}', by ssh of '{found.user}'"
    # An agent may have it, or the configuration of ssh another one.
    if found.machine.ssh_key and way.key.endswith("is not there"):
        return f"{text}, by another key than that of the line: {way.key}", way.key_fix
    return text, ""


def _tcp(way: Way) -> tuple[str, str]:
    if way.through:
        return f"port {way.port} is reached through {way.through}, and not tried from here", ""
    closed = ", ".join(f"{address} port {way.port}: {why}" for address, why in way.closed)
    if way.open_at:
        return f"{way.open_at} port {way.port} is open" + (f", after {closed}" if closed else ""), ""
    if all("refused" in why for _, why in way.closed):
        return f"nobody listens: {closed}", (
            "start sshd there; if it has another port, put that into the address (ssh-ng://HOST:PORT), or Port into "
            "ssh's configuration"
        )
    return f"nobody answers: {closed}", (
        f"see whether it is on, and whether a firewall keeps port {way.port}; if another machine is on the way, "
        "ssh's configuration needs ProxyJump"
    )


def _help(step: str, found: Findings) -> str:
    """What helps where what ssh says does not come with it."""
    host = f"{found.way.user}@{found.machine.uri.host}" if found.way else ""
    profile = f"the profile of {found.shell.name}" if found.shell and found.shell.name else "the profile of that shell"
    if step == "host-key" and found.way and found.pong.advice == OTHER_HOST_KEY:
        return (
            f"if the machine is meant to have another key: \"ssh-keygen -f '{found.way.known_hosts}' -R "
            f"'{found.way.known_as}'\", then 'ssh {host}' once as '{found.user}'; otherwise somebody else answers there"
        )
    own = f"run 'ssh {host} nix-daemon --version' as '{found.user}', and see what is missing there"
    return {
        "host-key": f"run 'ssh {host}' once as '{found.user}', and compare the key with that of the machine",
        "login": f"run 'ssh -v -o BatchMode=yes {host} true' as '{found.user}', or 'nix-ferry machine add {host}'; the "
        "log of its sshd says why, if the account is locked or expired",
        "stdout": f"have {profile} print only on a terminal there: [[ $- == *i* ]]",
        "store": "its Nix must have the store directory of this host, and be another one",
    }.get(step, own if host else f"correct the address ({found.machine.origin}), or what it names")


def _conditions(found: Findings) -> Iterator[Check]:
    """What may not be right about a machine that works."""
    pong, state, origin = found.pong, found.condition, found.machine.origin
    if pong.trusted is False:
        fix = "add the user that logs in there to 'trusted-users' in its nix.conf, or sign what you build from"
        yield Check("", Level.WRONG, "it does not trust you, and takes only signed inputs", fix, "trust")
    elif pong.trusted:
        yield Check("", Level.OK, "it trusts you", "", "trust")
    if state is None:
        return
    if claims := state.wrong_claims(found.machine):
        text = f"its line claims {', '.join(claims)}, which its Nix does not have for the user that logs in"
        fix = (
            f"take that out of the line ({origin}), or add it to 'extra-platforms' or 'system-features' there; "
            "'ca-derivations' and 'recursive-nix' belong to 'experimental-features'"
        )
        yield Check("", Level.NOTE, text, fix, "systems")
    else:
        yield Check("", Level.OK, state.builds, "", "systems")
    off = abs(state.clock_off_s)
    if off > CLOCK_OFF_S:
        text = f"its clock is {off} s {'ahead of' if state.clock_off_s > 0 else 'behind'} the one here"
        yield Check("", Level.NOTE, text, "set the clocks, by NTP for example", "clock")
    else:
        yield Check("", Level.OK, f"its clock is right, give or take {max(off, 1)} s", "", "clock")
    if state.free_kib is None:
        return
    if state.free_kib < LOW_DISK_KIB:
        text = f"its store has only {state.free_kib >> 10} MiB left"
        fix = "collect garbage there: 'nix-collect-garbage', or 'min-free' in its nix.conf"
        yield Check("", Level.NOTE, text, fix, "disk")
    else:
        yield Check("", Level.OK, state.free, "", "disk")
