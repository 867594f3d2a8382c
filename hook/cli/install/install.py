"""`nix-ferry install` and `uninstall`: have Nix run our hook, and take that back.

Each shows what it would write before it asks, and restarts nothing unasked.  What is written says whose it is, and is
all that `uninstall` removes; the hook itself last, when nobody runs it any more.  Tested in test_install.py, and with
real daemons in tests/lab/test_install.py.
"""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import click

from hook.broker import unit
from hook.cli import daemon, nix
from hook.cli.change import Change, agree, carry_out, dry_run_option, make, read_text, yes_option
from hook.cli.command import command, warn
from hook.cli.install import where as place
from hook.cli.install.confline import CREATED, with_line, without_line
from hook.cli.install.hookfile import placing, removing
from hook.cli.install.remains import end_broker, remains
from hook.errors import EXIT_FAILED, EXIT_OK, FerryError

RESTART = (("systemctl", "daemon-reload"), ("systemctl", "restart", daemon.UNIT))

restart_option = click.option("--restart", is_flag=True, help="Restart the Nix daemon without asking.")


@dataclass(frozen=True, slots=True)
class Target:
    """Who builds on this host, and the hook that is to be run for it."""

    hook: str
    release: str
    served: bool

    @property
    def line(self) -> str:
        """What a file in the format of nix.conf has to say."""
        return f"build-hook = {self.hook}"

    @property
    def in_unit(self) -> bool:
        """Whether the line belongs into the environment of the daemon, since it reads no file that is the host's."""
        return self.served and place.ignores_nix_conf(self.release) and place.has_systemd()


@click.command()
@yes_option
@dry_run_option
@restart_option
@command
def install(yes: bool, dry_run: bool, restart: bool) -> int:
    """Have Nix run nix-ferry's build hook.

    Copies the hook to where it stays when this installation is removed or replaced: below /usr/local/libexec, or
    ~/.local/libexec if you are not root. Writes `build-hook` where the Nix of this host reads it: into nix.conf, or,
    for a daemon of Nix 2.25 to 2.33, into its systemd unit. The change is shown first.

    \b
    Examples:
      nix-ferry install --dry-run         what would be written, and into which file
      nix-ferry install                   the same, and asks before it writes and restarts the daemon
      nix-ferry install --yes --restart   writes and restarts without a question
    """
    if path := place.changeable(place.own_hook(), place.broker_program()):
        raise FerryError(
            f"others than root can change '{path}', and builds run it as root: have root alone own it and what it is "
            "in, or install nix-ferry elsewhere, such as in /opt"
        )
    target = Target(place.hook_program(), nix.version(), daemon.serves(nix.settings(), os.environ))
    change, own = planned(target), place.own_hook()
    changes = [*(placing(target.hook, own) if target.hook != own else ()), _service_change(), change]
    changes = [each for each in changes if each]
    if not changes:
        click.echo(f"nothing to change: Nix {target.release} is told to run '{target.hook}' already")
        if target.served and (text := place.not_read_yet(place.environment_of_builds(served=True))):
            click.echo(f"but the Nix daemon does not know yet: {text}")
            _restart(target.served, unasked=restart, never=yes)
        return EXIT_OK
    if not make(changes, yes=yes, dry_run=dry_run) or not change:
        return EXIT_OK
    if not target.in_unit:
        value = place.effective(place.environment_of_builds(target.served)).text("build-hook")
        if value != target.hook:
            warn([f"Nix still takes '{value}' as build-hook: something that it reads after '{change.path}' says so"])
            return EXIT_FAILED
    _restart(target.served, unasked=restart, never=yes)
    if target.in_unit:
        click.echo(
            f"root's own commands do without the daemon: for them, put '{target.line}' into ~/.config/nix/nix.conf"
        )
    click.echo("'nix-ferry doctor' tells whether builds can go elsewhere now")
    return EXIT_OK


@click.command()
@yes_option
@dry_run_option
@restart_option
@command
def uninstall(yes: bool, dry_run: bool, restart: bool) -> int:
    """Take back what `nix-ferry install` wrote, have the broker end, and say what stays.

    Everything else in these files stays as it is; afterwards Nix runs its own hook. The copy of ours is removed when no
    daemon can be running it any more.

    \b
    Examples:
      nix-ferry uninstall --dry-run   what would be removed
      nix-ferry uninstall             removes it, and asks before
    """
    served = daemon.serves(nix.settings(), os.environ)
    environ = place.environment_of_builds(served)
    files = [place.system_conf_file(environ), place.user_conf_file(environ)]
    units = (place.DROP_IN, place.SERVICE_FILE)
    edits = {**dict.fromkeys(files, _without_line), **dict.fromkeys(units, _without_file)}
    changes = [change for path, edit in edits.items() if (change := Change.of(path, edit))]
    hook = place.hook_path()
    files_of_hook = removing(hook) if hook != place.own_hook() else []
    status = EXIT_OK
    if not changes and not files_of_hook:
        click.echo("nothing to change: 'nix-ferry install' has written nothing here")
    elif agree([*changes, *files_of_hook], yes=yes, dry_run=dry_run):
        carry_out(changes)
        restarted = not changes or _restart(served, unasked=restart, never=yes)
        status = _remove_hook(hook, files_of_hook, served, restarted=restarted)
    if not dry_run:
        click.echo(end_broker(os.environ))
    click.echo("what stays:")
    for line in remains(os.environ):
        click.echo(f"  {line}")
    return status


def _remove_hook(hook: str, files: Sequence[Change], served: bool, *, restarted: bool) -> int:
    """Remove the copy of the hook, unless somebody may still run it; returns the exit status."""
    if files and not restarted:
        click.echo(f"'{hook}' stays, since the daemon runs it until then; after that, 'nix-ferry uninstall' removes it")
        return EXIT_OK
    if files and place.effective(place.environment_of_builds(served)).text("build-hook").split()[:1] == [hook]:
        warn([f"'{hook}' stays: Nix still takes it as build-hook, by a line that 'nix-ferry install' has not written"])
        return EXIT_FAILED
    carry_out(files)
    return EXIT_OK


def planned(target: Target) -> Change:
    """What `nix-ferry install` would write; FerryError if that is not for it to write."""
    return _unit_change(target) if target.in_unit else _conf_change(target)


def _conf_change(target: Target) -> Change:
    """The line at the end of a file in the format of nix.conf."""
    environ = place.environment_of_builds(target.served)
    path = place.conf_file(environ, target.release, target.served)
    if os.path.realpath(path).startswith("/nix/store/"):
        raise FerryError(
            f"'{path}' is made by a configuration of NixOS or home-manager, which has to set build-hook; "
            "on NixOS use nix-ferry's module and 'services.nix-ferry.enable = true'"
        )
    if place.effective(environ).text("build-hook") == target.hook:
        return Change.of(path, lambda text: text)
    return Change.of(path, lambda text: with_line(text, target.line))


def _unit_change(target: Target) -> Change:
    """A drop-in of the daemon's unit."""
    before = read_text(place.DROP_IN)
    given = place.unit_nix_config()
    if before is None and given is not None:
        if given.strip() == target.line:
            return Change.of(place.DROP_IN, lambda text: text)
        raise FerryError(f"{daemon.UNIT} sets NIX_CONFIG already: add '{target.line}' to it")

    def whole(text: str | None) -> str:
        if text != before:
            raise FerryError(f"somebody else has just changed '{place.DROP_IN}'; try again")
        return f"{CREATED}\n{place.drop_in(target.hook)}"

    return Change.of(place.DROP_IN, whole)


def _without_line(text: str | None) -> str | None:
    return None if text is None else without_line(text)


def _without_file(text: str | None) -> str | None:
    return None if text is not None and text.startswith(CREATED) else text


def _service_change() -> Change:
    """The unit of the broker for whoever builds as root, which systemd reads when it is to start it."""
    wanted = os.geteuid() == 0 and place.has_systemd()

    def whole(text: str | None) -> str | None:
        ours = text is None or text.startswith(CREATED)
        return f"{CREATED}\n{unit.service(place.broker_program())}" if wanted and ours else text

    return Change.of(place.SERVICE_FILE, whole)


def _restart(served: bool, *, unasked: bool, never: bool) -> bool:
    """Offer to restart the daemon, which reads its configuration when it starts; whether none has an older one."""
    if not served:
        return True
    by_hand = " && ".join(" ".join(words) for words in RESTART)
    if not place.has_systemd():
        click.echo("restart the Nix daemon: it reads its configuration when it starts")
    elif unasked or (not never and click.confirm("Restart the Nix daemon now?")):
        for words in RESTART:
            try:
                subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
            except (OSError, subprocess.CalledProcessError) as error:
                raise FerryError(f"cannot restart the Nix daemon: {error}") from None
        return True
    else:
        click.echo(f"the Nix daemon reads it when it starts: {by_hand}")
    return False
