"""`nix-ferry machine add`: everything between an address and a build there, one step after the other.

Each step says what it does.  Whatever was done before a step that fails is named in the error; a second run goes on
from there.  Tested with real daemons and a real sshd in tests/lab/test_add.py.
"""

import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import click

from hook.cli import daemon
from hook.cli.change import Change, make
from hook.cli.here import Here
from hook.cli.install import where as place
from hook.cli.machine import machinesfile
from hook.cli.machine.login import HostKey, Login, make_key, pinned_key, public_key
from hook.cli.machine.trial import try_out
from hook.cli.probe.ping import Pong, answers, own_store
from hook.cli.probe.survey import SCRIPT, Survey, kvm_script, parse_survey, survey_here
from hook.errors import FerryError, MachineError, printable
from hook.machines.builders import Machine, format_machine
from hook.values.settings import Settings
from hook.values.storeuri import SSH_SCHEMES, parse_store_uri

KEY = "~/.ssh/nix-ferry"
"""The key for all machines, if no other one is named."""

SAME_SPEED = 0.25
"""A line that is there already keeps its speed factor if the measured one differs by less."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asked for.  `key` and `jobs` are None if that is left to us.

    `host_key` is the one that the machine must show: a fingerprint, or the key itself.
    """

    target: str
    key: str | None
    jobs: int | None
    yes: bool
    dry_run: bool
    host_key: str | None = None


class Adding:
    """One machine on its way into the machines file of this host."""

    def __init__(self, wanted: Wanted, here: Here) -> None:
        self._wanted = wanted
        self._here = here
        settings, host, environ = here.settings, here.host, here.environ
        self._store_dir = environ.get("NIX_STORE_DIR") or "/nix/store"
        self._distrusted = False
        self._done: list[str] = []
        served = daemon.serves(settings, environ)
        if served and os.geteuid() != 0:
            raise FerryError("run this as root: the Nix daemon logs in to machines as root")
        target = wanted.target.removeprefix("ssh-ng://").removeprefix("ssh://")
        uri = parse_store_uri(f"ssh-ng://{target}", host.release)
        self._old = next((each for each in here.machines if _is_at(each, uri.user, uri.host, uri.port)), None)
        if self._old is not None:
            uri = self._old.uri
            self._file, _ = machinesfile.place_of(self._old.origin)
        else:
            self._file = machinesfile.file_of(settings.text("builders", "@/etc/nix/machines")) or ""
        self._naming: Change | None = None
        if self._old is None and not served and not _may_write(self._file):
            self._file, self._naming = _own_file(settings, environ)
        if not self._file:
            raise FerryError("'builders' names no file for the line: put 'builders = @/etc/nix/machines' into nix.conf")
        machinesfile.refuse_made(self._file)
        if not wanted.dry_run:
            # Before anything is sent to the machine.
            Change.of(self._file, lambda text: text).check()
        key = os.path.abspath(os.path.expanduser(wanted.key or KEY))
        for word in (uri.text, key):
            if not word.isprintable() or set(word) & set(" #;"):
                raise FerryError(f"'{word}' cannot stand in a machines file, where a blank, a line, '#' or ';' ends it")
        text = f"{uri.text} - {key}"
        nothing: frozenset[str] = frozenset()
        machine = Machine(uri, text, "", (host.system,), key, 1, 1.0, nothing, nothing, None)
        self._login = Login(machine, environ, here.private_dir, here.config.connect_timeout_s)

    def run(self) -> None:
        """All steps.  FerryError with what was done before, if one of them fails."""
        try:
            public = self._have_key()
            self._pin_host_key()
            if not self._be_let_in(public):
                return
            survey = self._survey()
            self._write(self._with_protocol(), survey)
        except (FerryError, click.Abort) as error:
            text = error.one_line if isinstance(error, FerryError) else "stopped; the machines file is as it was"
            done = f" (done before that: {'; '.join(self._done)})" if self._done else ""
            raise FerryError(text + done) from None

    def _have_key(self) -> str | None:
        """The public half of our key; None if there will only be one."""
        path = self._login.machine.ssh_key or ""
        if not os.path.exists(path):
            if self._wanted.key is not None:
                raise FerryError(f"there is no key '{path}'; without --key one is made")
            _say("key", f"{path}, " + ("which would be made" if self._wanted.dry_run else "which is made now"))
            if self._wanted.dry_run:
                return None
            make_key(path, f"nix-ferry@{socket.gethostname()}")
            self._done.append(f"made the key '{path}'")
        else:
            _say("key", path)
        return public_key(path)

    def _pin_host_key(self) -> None:
        """Decide on the host key; from now on no other one is accepted."""
        key = self._login.host_key()
        pinned = pinned_key(self._old.public_host_key if self._old else None)
        if pinned is not None and pinned.kind == key.kind and pinned != key:
            raise MachineError(
                f"'{self._login.name}' shows the host key {key.fingerprint}, but {pinned.fingerprint} is pinned; if "
                f"it is meant to have another one, 'nix-ferry machine remove {self._login.name}' first"
            )
        expected = self._wanted.host_key
        if expected is not None and not key.is_meant_by(expected):
            raise MachineError(
                f"'{self._login.name}' shows the host key {key.kind} {key.fingerprint}, which is not the one that "
                "--host-key names: somebody else may be between you and it; nothing was sent there"
            )
        if expected is not None:
            known = "as --host-key says"
        elif pinned == key:
            known = "pinned already"
        elif self._login.is_known(key):
            known = "known to ssh already"
        else:
            known = ""
        _say("host key", f"{key.kind} {key.fingerprint}" + (f", {known}" if known else ""))
        if not known and not self._wanted.dry_run:
            self._ask_about(key)
        self._login.pin(key)

    def _ask_about(self, key: HostKey) -> None:
        if self._wanted.yes:
            click.echo(
                "          nobody here knew it: it is pinned as it is, because of --yes; --host-key would check it"
            )
        file = f"/etc/ssh/ssh_host_{key.kind.removeprefix('ssh-')}_key.pub"
        click.echo(f"          compare it with what 'ssh-keygen -lf {file}' says on the machine")
        if self._wanted.yes:
            return
        if not sys.stdin.isatty():
            raise FerryError(
                "there is no terminal to ask on whether that is its host key: give --host-key, or --yes if it is"
            )
        if not click.confirm(f"Is that the host key of '{self._login.name}'?"):
            raise FerryError("then somebody else may be between you and it; nothing was sent there")

    def _be_let_in(self, public: str | None) -> bool:
        """Have the machine accept our key; False if there is nothing more to tell in a dry run."""
        if public is not None and self._login.is_let_in():
            _say("login", f"'{self._login.name}' accepts the key, without a question")
            return True
        if self._wanted.dry_run:
            _say("login", f"the key would be copied to '{self._login.name}'; only then it can be asked for the rest")
            return False
        assert public is not None
        _say("login", f"copying the key to '{self._login.name}'; ssh may ask for a password, this once")
        self._login.copy_key(public)
        self._done.append(f"added the key to authorized_keys of '{self._login.name}'")
        if not self._login.is_let_in():
            raise MachineError(
                f"'{self._login.name}' still refuses the key: see what its sshd logs, and who may write to .ssh there"
            )
        _say("login", f"'{self._login.name}' accepts the key now, without a question")
        return True

    def _survey(self) -> Survey:
        survey = parse_survey(self._login.run_script(SCRIPT))
        memory = f"{survey.memory_kib / (1 << 20):.1f} GiB of memory" if survey.memory_kib else "memory unknown"
        _say("machine", f"{', '.join(survey.systems)}; {survey.cores} cores, {memory}")
        if "kvm" in survey.features:
            try:
                self._login.run_script(kvm_script(survey.systems[0]))
            except MachineError:
                survey = replace(survey, features=survey.features - {"kvm"})
                _say("features", "its Nix promises kvm, but a build there cannot use /dev/kvm: left out")
        _say("features", ", ".join(sorted(survey.features)) or "none")
        return survey

    def _with_protocol(self) -> Machine:
        """The machine by the first protocol that works there: ssh-ng, unless there is only ssh."""
        machine = self._login.machine
        _, separator, rest = machine.uri.text.partition("://")
        ours = own_store(self._here.settings, self._here.environ)
        failed: Pong | None = None
        for scheme in ("ssh-ng", "ssh"):
            machine = replace(machine, uri=parse_store_uri(scheme + separator + rest, self._here.host.release))
            (pong,) = answers([machine], self._here.routes, self._here.host.release, ours)
            if not pong.error:
                trust = {True: ", trusts us", False: ", does not trust us", None: ""}[pong.trusted]
                _say("protocol", f"{scheme}: {pong.says}{trust}")
                if pong.trusted is False:
                    self._ask_about_distrust()
                return machine
            failed = failed or pong
        assert failed is not None
        raise MachineError(f"'{failed.machine}' cannot be used: {failed.error}")

    def _ask_about_distrust(self) -> None:
        """Whether the user wants the machine all the same; FerryError if not."""
        self._distrusted = True
        user = self._login.machine.uri.user
        known_as = f"'{user}'" if user else "the user that logs in there"
        text = f"it does not trust {known_as}: builds with unsigned inputs will fail there"
        fix = f"add {known_as} to 'trusted-users' in nix.conf of that machine"
        click.echo(f"          {text}; {fix}")
        # One that is in use already was asked about when it was added.
        if self._wanted.dry_run or self._old is not None:
            return
        if self._wanted.yes or not sys.stdin.isatty():
            raise FerryError(f"{text}: {fix}, or answer the question whether to add it, which comes without --yes")
        if not click.confirm("Add it anyway?"):
            raise FerryError(f"then {fix}, and come again")

    def _write(self, machine: Machine, survey: Survey) -> None:
        """Show the line, write it and prove it; take it back if it does not hold."""
        machine = replace(
            machine,
            systems=survey.systems,
            max_jobs=self._wanted.jobs or survey.max_jobs,
            speed_factor=self._speed(survey),
            supported=survey.features,
            mandatory=self._old.mandatory if self._old else frozenset(),
        )
        _say("speed", f"{machine.speed_factor:g} times that of this host, by the time Nix takes to evaluate something")
        line = format_machine(machine, self._here.host.release)
        change = self._change(line)
        changes = [each for each in (change, self._naming) if each]
        if not changes:
            _say("line", f"'{self._file}' has it already")
        elif not make(changes, yes=self._wanted.yes, dry_run=self._wanted.dry_run):
            return
        if self._wanted.dry_run:
            return
        try:
            try_out(machine, line, self._here.environ, self._store_dir, trusts=not self._distrusted)
        except (FerryError, KeyboardInterrupt):
            if change:
                self._take_back(
                    change, lambda: machinesfile.taken_back(change, line, self._old.text if self._old else None)
                )
            if naming := self._naming:
                self._take_back(naming, lambda: machinesfile.without_last(naming))
            raise
        with_input = "" if self._distrusted else ", of an input that only this host vouches for"
        _say("proof", f"built something on '{machine.uri.render(self._here.host.release)}'{with_input}")

    def _take_back(self, change: Change, undoing: Callable[[], Change]) -> None:
        """Undo `change`, and nothing that somebody else has changed meanwhile."""
        try:
            undo = undoing()
            undo.make()
        except FerryError as error:
            _say("left", f"'{change.path}' stays as it is now: {error.one_line}")
        else:
            same = undo.after == change.before
            _say("undone", f"'{change.path}' is as it was" + ("" if same else ", but for what others have changed"))

    def _speed(self, survey: Survey) -> float:
        measured = survey.speed_against(survey_here(self._here.environ))
        known = self._old.speed_factor if self._old else measured
        # No two measurements agree.
        return known if abs(measured / known - 1) < SAME_SPEED else measured

    def _change(self, line: str) -> Change:
        if self._old is None:
            return machinesfile.addition(self._file, line)
        return machinesfile.replacement(self._old.origin, self._old.text, line)


def _may_write(file: str | None) -> bool:
    """Whether this user may change `file`, or make it."""
    if not file:
        return True
    try:
        Change.of(file, lambda text: text).check()
    except FerryError:
        return False
    return not os.path.exists(file) or os.access(file, os.W_OK)


def _own_file(settings: Settings, environ: Mapping[str, str]) -> tuple[str, Change]:
    """The machines file of a user who builds without a daemon and may not change the host's, and what names it.

    The host's machines stay.
    """
    conf = place.user_conf_file(environ)
    file = os.path.join(os.path.dirname(conf), "machines")
    builders = f"{settings.text('builders', '@/etc/nix/machines')} ; @{file}"
    return file, machinesfile.addition(conf, f"builders = {builders}")


def _is_at(machine: Machine, user: str | None, host: str, port: int | None) -> bool:
    uri = machine.uri
    return uri.scheme in SSH_SCHEMES and (uri.user, uri.host, uri.port) == (user, host, port)


def _say(step: str, text: str) -> None:
    click.echo(f"{step + ':':10}{printable(text)}")
