"""How ssh is run to reach a machine: its command line, the host key it must find, and what it is configured to do.

Nothing here speaks a Nix protocol.  ssh is the one found in PATH with the user's whole configuration; it is never given
a way to ask a question.

Source: docs/protocols/ssh.md, "Command lines".  Tested with a scripted ssh in remote/test_ssh.py and a real one in the
lab.
"""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence

from hook.errors import ConfigurationError, MachineError
from hook.machines.builders import Machine
from hook.machines.identity import REMOTE_PROGRAMS
from hook.remote.child import HANDSHAKE_S, LINES_SHOWN, Command
from hook.values.release import Release

KEEP_ALIVE = ("-oServerAliveInterval=15", "-oServerAliveCountMax=3")
"""A link that is dead for a minute ends the session, also while a silent build runs."""

NO_QUESTIONS = ("-T", "-oBatchMode=yes", "-oPermitLocalCommand=no")
"""Nobody is there to answer, and what a local command prints would be taken for the protocol."""

OUTLIVES_US = ("-oControlPersist=60",)
"""With `ControlMaster auto` in the user's configuration the sessions of other builds go through the connection that the
first one made: that must not be our child, which ends with this build.  Without ControlMaster it means nothing."""

CLEAR_FORWARDINGS = "-oClearAllForwardings=yes"

NOTHING_ELSE = ("-oRemoteCommand=none", CLEAR_FORWARDINGS)
"""A session is for our command; a port that it forwards would be taken from the user's own ssh."""

NOTHING_ELSE_SINCE_8_7 = ("-oSessionType=default", "-oStdinNull=no", "-oForkAfterAuthentication=no")
"""The same, by words that OpenSSH had no options for before."""

FORWARDINGS = ("-L", "-R", "-D")
FORWARDING_WORDS = ("localforward", "remoteforward", "dynamicforward")

ONLY_THE_PINNED_KEY = (
    "-oStrictHostKeyChecking=yes",
    "-oUpdateHostKeys=no",
    # Not `none`, which is a file of that name here.
    "-oGlobalKnownHostsFile=/dev/null",
    "-oNoHostAuthenticationForLocalhost=no",
    "-oVerifyHostKeyDNS=no",
    # Whoever opened the user's own control connection need not have seen this key.
    "-oControlMaster=no",
    "-oControlPath=none",
)
"""Otherwise a user's configuration could make ssh accept other keys and even add them to the file."""

ONLY_THE_PINNED_KEY_SINCE_8_5 = ("-oKnownHostsCommand=none",)

NOISE = frozenset(("PWD", "OLDPWD", "SHLVL", "_", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID"))
"""Variables that differ from one process to the next and mean nothing to those that it starts."""

QUOTED_BEFORE: Release = (2, 20)
"""Older releases quote `remote-store` for the remote shell; since then that is up to whoever writes the address."""


CONFIGURATION_TIMEOUT_S = HANDSHAKE_S
"""How long ssh may take to read its configuration, which may have it run commands: it does so before each handshake."""


SYSTEMS_WITH_AES = frozenset({"aarch64-darwin", "x86_64-darwin", "x86_64-linux"})
"""Whoever builds for one of these is taken to have instructions for AES, as x86-64 has had since about 2010.

Of other systems some machines have them and some have not.
"""

FIRST_OPTION = 3
"""Where the options begin, after `ssh HOST -x`."""

RELEASE_TIMEOUT_S = 2.0
"""How long ssh may take to say which one it is, for which it reads nothing."""


VERSION = re.compile(r"^OpenSSH_(\d+)\.(\d+)", re.MULTILINE)


_releases: dict[tuple[str, tuple[int, ...]], tuple[int, int]] = {}
"""Of ssh, by program; one that was replaced is another one."""


def command_for(
    machine: Machine,
    environ: Mapping[str, str],
    private_dir: str,
    release: Release,
    connect_timeout_s: int,
    *,
    verbose: bool = False,
) -> Command:
    """The command that connects to the Nix of `machine`, whose scheme must be in REMOTE_PROGRAMS.

    `private_dir` keeps the known-hosts file of a machine whose line pins a host key.  `release` is the parent's.
    `verbose`: ssh is to say what it does.
    """
    uri = machine.uri
    program, *arguments = REMOTE_PROGRAMS[uri.scheme]
    words = uri.parameter("remote-program", program).split()
    if not words:
        raise ConfigurationError("parameter 'remote-program' is empty")
    remote = [*words, *arguments]
    store = uri.parameter("remote-store", "")
    if uri.is_plain_localhost:
        return Command((*remote, "--store", store) if store else tuple(remote), environ)
    if store:
        import shlex

        remote += ["--store", shlex.quote(store) if release < QUOTED_BEFORE else store]
    ssh = ssh_arguments(machine, environ, private_dir, connect_timeout_s)
    if verbose:
        ssh.append("-v")
    has_aes = not SYSTEMS_WITH_AES.isdisjoint(machine.systems)
    return Command((*ssh, "--", *remote), _ssh_environment(environ), has_aes=has_aes)


def ssh_arguments(machine: Machine, environ: Mapping[str, str], private_dir: str, connect_timeout_s: int) -> list[str]:
    """The command line of ssh up to the remote command.

    ssh takes the first value it sees of an option: NIX_SSHOPTS comes before ours and wins.
    """
    uri = machine.uri
    argv = ["ssh", f"{uri.user}@{uri.host}" if uri.user else uri.host, "-x"]
    own = _words(environ.get("NIX_SSHOPTS", ""))
    release = ssh_release(environ)
    argv += [*own, *NO_QUESTIONS, f"-oConnectTimeout={connect_timeout_s}", *KEEP_ALIVE, *OUTLIVES_US]
    # Whoever forwards ports on the command line wants them for builds.
    argv += [option for option in NOTHING_ELSE if not (option == CLEAR_FORWARDINGS and _forwards(own))]
    if release >= (8, 7):
        argv += NOTHING_ELSE_SINCE_8_7
    if key := machine.ssh_key or uri.parameter("ssh-key", ""):
        argv.append(f"-i{key}")
    if public := machine.public_host_key or uri.parameter("base64-ssh-public-host-key", ""):
        from hook.remote.hostkey import known_hosts_file

        argv += [known_hosts_option(known_hosts_file(public, private_dir)), *ONLY_THE_PINNED_KEY]
        if release >= (8, 5):
            argv += ONLY_THE_PINNED_KEY_SINCE_8_5
    if uri.flag("compress", False):
        argv.append("-C")
    if uri.port is not None:
        argv.append(f"-p{uri.port}")
    return argv


def _words(options: str) -> list[str]:
    if not options:
        return []
    import shlex

    try:
        return shlex.split(options)
    except ValueError as error:
        raise ConfigurationError(f"NIX_SSHOPTS cannot be split into words: {error}") from None


def _forwards(words: Sequence[str]) -> bool:
    """Whether these words for ssh forward a port."""
    return any(word.startswith(FORWARDINGS) or any(name in word.lower() for name in FORWARDING_WORDS) for word in words)


def known_hosts_option(file: str) -> str:
    """The option of ssh that names `file`, which may have blanks in its name."""
    return '-oUserKnownHostsFile="{}"'.format(file.replace("%", "%%"))


def options_first(argv: Sequence[str], options: Sequence[str]) -> tuple[str, ...]:
    """A command line of `ssh_arguments` with `options` before all others: of each, ssh takes the first value."""
    return (*argv[:FIRST_OPTION], *options, *argv[FIRST_OPTION:])


def _ssh_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment, less everything through which ssh could ask a question."""
    kept = {name: value for name, value in environ.items() if name not in ("DISPLAY", "SSH_ASKPASS")}
    return kept | {"SSH_ASKPASS_REQUIRE": "never", "SHELL": "/bin/sh"}


def ssh_program(environ: Mapping[str, str]) -> str | None:
    """The ssh that somebody with this environment runs."""
    # Not shutil's: to load that takes longer than to start a hook.
    candidates = (os.path.join(directory, "ssh") for directory in environ.get("PATH", os.defpath).split(":"))
    return next((path for path in candidates if os.access(path, os.X_OK) and not os.path.isdir(path)), None)


def ssh_release(environ: Mapping[str, str]) -> tuple[int, int]:
    """Its release, `(9, 2)` say; `(0, 0)` if it does not tell.  Each program is asked once.

    A word that it does not know would end it, and `IgnoreUnknown` would undo that of the user.
    """
    program = ssh_program(environ)
    if program is None:
        return 0, 0
    try:
        found = os.stat(program)
        key = program, (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
    except OSError:
        return 0, 0
    if key not in _releases:
        if (found_release := _ask_release(program, environ)) == (0, 0):
            # Perhaps it was only late.
            return found_release
        _releases[key] = found_release
    return _releases[key]


def _ask_release(program: str, environ: Mapping[str, str]) -> tuple[int, int]:
    try:
        said = subprocess.run(
            [program, "-V"],
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=RELEASE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return 0, 0
    release = VERSION.search((said.stderr + said.stdout).decode(errors="replace"))
    return (int(release[1]), int(release[2])) if release else (0, 0)


def ssh_configuration(command: Command) -> dict[str, list[str]]:
    """What ssh makes of its configuration for `command`: the values of each option, whose name is in lower case.

    MachineError, with what ssh says, if it cannot read it.
    """
    argv = command.argv[: command.argv.index("--")]
    try:
        done = subprocess.run(
            [*argv, "-G"],
            env=command.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CONFIGURATION_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise MachineError(f"cannot run 'ssh': {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise MachineError(f"ssh did not read its configuration within {CONFIGURATION_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-LINES_SHOWN:]
        raise MachineError(f"ssh cannot read its configuration: {'; '.join(said)}")
    options: dict[str, list[str]] = {}
    for line in done.stdout.decode(errors="replace").splitlines():
        name, separator, value = line.partition(" ")
        if separator:
            options.setdefault(name, []).append(value)
    return options
