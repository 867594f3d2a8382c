"""What `nix-ferry doctor` says of this host: a check for each thing that whoever builds here needs besides machines.

Changes nothing.  Tested in tests/lab/test_doctor.py by breaking what each checks.
"""

import difflib
import grp
import os
import re
from collections.abc import Iterator, Mapping

from hook.broker.client import broker_directory, elsewhere, overview_of, own_socket, user_name
from hook.cli import daemon, nix
from hook.cli.change import read_text
from hook.cli.doctor.check import Check, Level
from hook.cli.doctor.holders import holders, slot_holders
from hook.cli.install import install
from hook.cli.install import where as place
from hook.cli.install.hookfile import lacking, reached
from hook.errors import FerryError, StockOnly
from hook.machines.builders import Machine
from hook.machines.schedule import Host
from hook.session.loading import load_all
from hook.store.database import Database
from hook.store.location import daemon_socket, find_store, state_dir_of
from hook.values.settings import Settings

MACHINES = "/etc/nix/machines"


def no_nix(error: nix.NixError) -> Check:
    """Why Nix says nothing."""
    text = error.one_line.removesuffix(" Try 'nix --help' for more information.")
    if any(words in text for words in nix.MISTAKES):
        return Check("Nix", Level.WRONG, text, "correct that in the file, which is nix.conf if none is named")
    return Check("Nix", Level.WRONG, text, "install Nix, or put it into PATH")


def check_settings(settings: Settings) -> Iterator[Check]:
    """A check for each name in its configuration that Nix does not know."""
    for name in nix.unknown_settings():
        close = difflib.get_close_matches(name, list(settings), n=1)
        guess = f": did you mean '{close[0]}'?" if close else ""
        text = f"there is no setting '{name}', which Nix passes over{guess}"
        yield Check("nix.conf", Level.NOTE, text, "correct the name in nix.conf, or take that line out")


def unreachable_daemon(environ: Mapping[str, str]) -> Check | None:
    """What keeps this user from the daemon of this host; None if nothing does, or there is none."""
    if os.geteuid() == 0:
        return None
    path = daemon_socket(environ, state_dir_of(environ))
    directory = os.path.dirname(path)
    enters = os.access(directory, os.X_OK)
    if not os.path.isdir(directory) or os.access(path, os.W_OK) or (enters and not os.path.lexists(path)):
        return None
    closed = path if enters else directory
    group, user = _group_of(closed), user_name(os.geteuid())
    text = f"'{user}' may not use it: '{closed}' is for group '{group}' only"
    return Check("daemon", Level.WRONG, text, f"run 'usermod -aG {group} {user}' as root, and log in anew")


def _group_of(path: str) -> str:
    gid = os.stat(path).st_gid
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def check_hook(settings: Settings, release: str, served: bool) -> Check:
    """Whether whoever builds would run our hook."""
    subject = "build-hook"
    who = "the Nix daemon" if served else "Nix"
    own = settings.text("build-hook")
    environ = None
    bypasses = served and os.geteuid() == 0 and not daemon.is_used(settings, os.environ)
    if served:
        try:
            environ = daemon.environment(os.environ)
        except FerryError as error:
            return Check(subject, Level.WRONG, error.one_line, "have root alone own it, then restart the daemon")
        if environ is None:
            text = "the daemon's environment cannot be seen, so its build hook is not known"
            return Check(subject, Level.NOTE, text, "run this as root, while the daemon runs")
        settings = nix.settings((), environ)
    value = settings.text("build-hook")
    program = value.split()[0] if value else ""
    if not place.is_hook(value):
        runs = f"runs '{value}', not {place.HOOK}" if value else "builds nothing elsewhere: 'build-hook' is empty"
        return Check(subject, Level.WRONG, f"{who} {runs}", how_to_set(release, served))
    if not os.access(program, os.X_OK):
        return Check(subject, Level.WRONG, f"{who} is to run '{program}', which is no executable", "install nix-ferry")
    if gone := lacking(program):
        text = f"the hook hands every build to Nix's own hook: '{gone}' is gone"
        return Check(subject, Level.WRONG, text, "install nix-ferry again, and run its 'nix-ferry install'")
    if path := place.changeable(os.path.realpath(program), *reached(program)):
        text = f"{who} runs '{path}', which others than root can change"
        fix = "have root alone own it and what it is in, or install nix-ferry elsewhere, such as in /opt"
        return Check(subject, Level.WRONG, text, fix)
    try:
        load_all()
    except StockOnly as error:
        text = f"the hook hands every build to Nix's own hook: {error.one_line}"
        return Check(subject, Level.WRONG, text, "install nix-ferry again")
    if environ is not None and (text := place.not_read_yet(environ)):
        return Check(subject, Level.NOTE, f"{who} is to run '{program}', but {text}", _how_to_restart())
    if bypasses and not place.is_hook(own):
        text = f"{who} runs '{program}', but root's own commands, which do without the daemon, run '{own}'"
        fix = f"put 'build-hook = {program}' into ~/.config/nix/nix.conf of root, or set NIX_REMOTE=daemon for them"
        return Check(subject, Level.NOTE, text, fix)
    return Check(subject, Level.OK, f"{who} runs '{program}'")


def _how_to_restart() -> str:
    return "systemctl restart nix-daemon" if place.has_systemd() else "restart the Nix daemon"


def how_to_set(release: str, served: bool) -> str:
    """How to have whoever builds run our hook: what `nix-ferry install` would do."""
    try:
        target = install.Target(place.hook_program(), release, served)
        change = install.planned(target)
    except FerryError as error:
        return error.one_line
    if not change:
        return f"{_how_to_restart()}: it reads its configuration when it starts"
    if target.in_unit:
        return (
            f"Nix {release} ignores it in nix.conf: run 'nix-ferry install', which puts "
            f"'Environment=\"NIX_CONFIG={target.line}\"' into {change.path}, "
            "then 'systemctl daemon-reload && systemctl restart nix-daemon'"
        )
    ignored = f" (Nix {release} ignores it in nix.conf of the host)" if place.ignores_nix_conf(release) else ""
    restart = ", then restart the daemon" if served else ""
    return f"run 'nix-ferry install', which puts '{target.line}' into {change.path}{ignored}{restart}"


def check_user() -> Check:
    """Whether the daemon lets this user choose machines."""
    trusted = nix.is_trusted()
    if trusted is None:
        text = "this Nix does not say whether the daemon trusts you"
        return Check(
            "user", Level.NOTE, text, "look for your name in 'trusted-users' of /etc/nix/nix.conf; root has it"
        )
    if trusted:
        return Check("user", Level.OK, "the daemon trusts you: 'builders' on your command line counts")
    text = "the daemon does not trust you: it goes by its own 'builders', whatever your command line says"
    return Check("user", Level.NOTE, text, "set 'builders' in /etc/nix/nix.conf, or add yourself to 'trusted-users'")


def check_store(settings: Settings, served: bool) -> Check:
    """Whether it is one that we handle."""
    subject = "store"
    if served and os.geteuid() != 0:
        return Check(subject, Level.NOTE, "only root can look into the daemon's store", "run this as root")
    try:
        location = find_store(_store_uri(settings, served), os.environ)
        if not os.path.exists(os.path.join(location.state_dir, "db")):
            return Check(subject, Level.OK, f"there is none yet in '{location.real_store_dir}'; Nix makes it")
        with Database.open(location.state_dir):
            return Check(subject, Level.OK, f"'{location.real_store_dir}', of a known format")
    except StockOnly as reason:
        text = f"builds are left to the stock hook: {reason.one_line}"
        return Check(subject, Level.NOTE, text, "nothing to do: they go on as without nix-ferry")
    except FerryError as error:
        return Check(subject, Level.WRONG, error.one_line, "run this as the user who builds, whose Nix opens the store")


def _store_uri(settings: Settings, served: bool) -> str:
    uri = "auto" if served else settings.text("store", "auto")
    # Where this process may not write is for the database to say.
    return "local" if uri in ("", "auto", "daemon") else uri


def check_machines(machines: list[Machine], host: Host, settings: Settings) -> Check:
    """Whether there are any."""
    source = settings.text("builders")
    text = f"{len(machines)} in " + (f"'builders = {source}'" if source.startswith("@") else "'builders'")
    if not machines:
        return Check("machines", Level.WRONG, *_no_machines(source, text))
    if not any(machine.max_jobs for machine in machines):
        return Check("machines", Level.WRONG, f"{text}, and none takes a job", "raise the 4th column, max jobs")
    if host.max_jobs > 0:
        here = f"; this host builds, too, when they are busy (max-jobs is {host.max_jobs})"
        return Check("machines", Level.OK, text + here)
    return Check("machines", Level.OK, f"{text}; nothing is built here (max-jobs is 0)")


def check_files(settings: Settings) -> Iterator[Check]:
    """A check for each file that `builders` names and that counts for no machines."""
    for item in re.split("[\n;]", settings.text("builders")):
        words = item.partition("#")[0].split()
        if len(words) > 1 and all(word.startswith("@") for word in words):
            text = f"'{' '.join(words)}' names one file with blanks in its name, which is not there"
            between = " ; ".join(word.rstrip(",") for word in words)
            yield Check("builders", Level.WRONG, text, f"put a ';' between them: '{between}'")
        elif len(words) == 1 and words[0].startswith("@") and not os.path.exists(words[0][1:]):
            path = words[0][1:]
            if path != MACHINES:
                text = f"it names '{path}', which is not there"
                yield Check("builders", Level.NOTE, text, "make that file, or take its name out of 'builders'")
        elif len(words) == 1 and words[0].startswith("/") and os.path.isfile(words[0]):
            text = f"'{words[0]}' is taken for the directory of a store, but is a file"
            yield Check("builders", Level.WRONG, text, f"if it describes machines, write '@{words[0]}'")


def _no_machines(source: str, text: str) -> tuple[str, str]:
    lines = [line for line in (_text_of(MACHINES) or "").splitlines() if line.partition("#")[0].strip()]
    if lines and f"@{MACHINES}" not in source:
        count = "1 line" if len(lines) == 1 else f"{len(lines)} lines"
        fix = f"put 'builders = @{MACHINES}' into nix.conf, or take 'builders' out of it"
        return f"{text}, though {MACHINES} has {count}", fix
    fix = f"describe a machine in {MACHINES}, for example 'ssh-ng://host x86_64-linux /root/.ssh/key 4'"
    return text, f"{fix}, or run 'nix-ferry machine add USER@HOST'"


def _text_of(path: str) -> str | None:
    try:
        return read_text(path)
    except FerryError:
        return None


def check_slots(state_dir: str, machines: list[Machine], host: Host) -> Check:
    """Whose builds hold them: those of a process that hangs would be held for ever."""
    held = holders(os.path.join(state_dir, "current-load"))
    busy = []
    for machine in machines:
        stem = machine.uri.lock_stem(host.release)
        owners = slot_holders(held, stem, machine.max_jobs)
        if owners:
            whose = "; ".join(sorted(set(owners)))
            busy.append(f"{len(owners)} of {machine.max_jobs} of '{machine.uri.render(host.release)}' ({whose})")
    return Check("slots", Level.OK, ", ".join(busy) + " are busy" if busy else "all are free")


def check_broker(*, hook_is_ours: bool) -> Check:
    """Whether one runs; it is asked a question, since it writes down who hangs up on it."""
    subject = "broker"
    following = "the next build starts one" if hook_is_ours else "Nix does not run nix-ferry's hook, which starts one"
    try:
        directory = broker_directory(os.environ)
    except FerryError as error:
        text, _, who = error.one_line.partition(": run this as ")
        alone = "nothing to do: without one each hook works alone; with XDG_RUNTIME_DIR there is one"
        return Check(subject, Level.NOTE, text, f"run this as {who}" if who else alone)
    try:
        running = overview_of(directory)
    except FerryError as error:
        fix = "'nix-ferry broker restart --now' ends it; nothing is lost but the builds that it has"
        return Check(subject, Level.WRONG, error.one_line, fix)
    others = elsewhere(directory)
    if running is not None:
        return Check(subject, Level.OK, f"process {running['pid']}, which writes '{directory}/broker.log'{others}")
    if os.path.exists(own_socket(directory)):
        text = f"none runs; one that was killed has left '{own_socket(directory)}'{others}"
        return Check(subject, Level.NOTE, text, "nothing to do: the next one replaces it")
    return Check(subject, Level.OK, f"none runs; {following}{others}")
