"""`nix-ferry machine`: the machines of `builders`, looked at and changed one at a time.

Tested in cli/machine/test_drain.py and lab/test_machine.py.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import click

from hook.broker.client import broker_directory, overview_of, retry, say_they_work
from hook.cli import nix
from hook.cli.change import dry_run_option, yes_option
from hook.cli.command import as_json, command, nix_options, warn
from hook.cli.complete import complete_machine
from hook.cli.here import Here
from hook.cli.machine.add import Adding, Wanted
from hook.cli.machine.machinesfile import refuse_made, removal
from hook.cli.output import print_json, print_table
from hook.errors import FerryError
from hook.machines.builders import Machine

LOOK_S = 0.5
"""How often a machine that is being emptied is looked at."""


HEADER = ("MACHINE", "SYSTEMS", "BUSY", "SPEED", "FEATURES", "STATE", "LINE")


@dataclass(frozen=True, slots=True)
class Entry:
    """One machine in the list.  `busy` is None where slots are not for this user to see; `state` is `?` then, too."""

    machine: str
    systems: Sequence[str]
    max_jobs: int
    busy: int | None
    speed_factor: float
    supported_features: Sequence[str]
    mandatory_features: Sequence[str]
    state: str
    disabled_since: float | None
    origin: str
    line: str

    def row(self) -> tuple[str, ...]:
        """Cells of a table."""
        busy = "?" if self.busy is None else self.busy
        features = [*self.supported_features, *(f"{name} (required)" for name in self.mandatory_features)]
        return (
            self.machine,
            ",".join(self.systems),
            f"{busy}/{self.max_jobs}",
            f"{self.speed_factor:g}",
            ",".join(features) or "-",
            self.state,
            self.origin,
        )


@click.group()
def machine() -> None:
    """List, add and remove machines, or take them out of use for a while.

    NAME is a host or a whole address as in 'builders'; a host stands for all its lines.

    \b
    Examples:
      nix-ferry machine list                   what there is, in use and free
      nix-ferry machine add builder@fast-box   from a host with ssh to one that builds, step by step
      nix-ferry machine disable fast-box       no more builds for it, until 'enable'
    """


@machine.command("list")
@nix_options
@as_json
@command
def list_(options: nix.Options, as_json: bool) -> int:
    """Show every machine of 'builders' with its slots, state and line.

    Of slots it tells how many are in use, by whatever hooks of this host, and how many there are.

    \b
    Examples:
      nix-ferry machine list   what each takes, enabled or not, and where it is written
      nix-ferry machine list --json | jq '.[] | {machine, busy, state}'   for programs
    """
    here = Here(options)
    entries = [_entry(here, each) for each in here.machines]
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return 0
    warn(here.warnings)
    print_table(HEADER, [entry.row() for entry in entries])
    return 0


@machine.command()
@click.argument("target", metavar="[USER@]HOST[:PORT]")
@click.option("--key", metavar="FILE", help="The private key to log in with; without one, ~/.ssh/nix-ferry is made.")
@click.option(
    "--host-key", metavar="KEY", help="The host key that the machine must show: its fingerprint (SHA256:…), or the key."
)
@click.option("--port", "-p", type=click.IntRange(1, 65535), help="The port of its sshd.")
@click.option(
    "--jobs", "-j", type=click.IntRange(min=1), help="How many builds at once; by default a core and 2 GiB each."
)
@yes_option
@dry_run_option
@nix_options
@command
def add(
    target: str,
    key: str | None,
    host_key: str | None,
    port: int | None,
    jobs: int | None,
    yes: bool,
    dry_run: bool,
    options: nix.Options,
) -> int:
    """Have Nix build on HOST: all that it takes, step by step.

    Makes a key, shows the machine's host key and pins it, copies the key there (ssh asks for the password, once), and
    checks that Nix can log in without a question. Then asks the machine what it can do, compares its speed with this
    host's, writes its line into the file of 'builders', and proves it by a build.

    May be repeated: what is done already stays, and the line is replaced. With a Nix daemon, run it as root. Who builds
    without one and may not change the host's file gets one beside their own nix.conf, which then names both.

    With --yes, a host key that nobody here knows is pinned as it is shown; --host-key says which one it must be.

    \b
    Examples:
      nix-ferry machine add builder@fast-box          all of that; it asks before it writes
      nix-ferry machine add --dry-run fast-box:2222   the line it would write
      nix-ferry machine add --yes --host-key SHA256:LQ5M… fast-box   asks nothing, takes no other key
    """
    here = Here(options)
    warn(here.warnings)
    if port is not None:
        target = f"{target}:{port}"
    wanted = Wanted(target, key, jobs, yes, dry_run, host_key)
    Adding(wanted, here).run()
    return 0


@machine.command()
@click.argument("name", shell_complete=complete_machine)
@nix_options
@command
def remove(name: str, options: nix.Options) -> int:
    """Delete the line of NAME from the machines file.

    Other lines and comments stay, and builds that run there go on. The machine itself is left as it is, as is the key
    that opens it.

    \b
    Examples:
      nix-ferry machine remove fast-box   says which line of which file it was
    """
    # One at a time: the next one's place is known only when this one is gone.
    for old in [each.text for each in Here(options).named(name)]:
        here = Here(options)
        each = next(each for each in here.machines if each.text == old)
        change = removal(each.origin, each.text)
        refuse_made(change.path)
        change.check()
        change.make()
        here.disabled.remove(each)
        click.echo(f"removed from {change.path}: {each.text}")
    return 0


@machine.command()
@click.argument("name", shell_complete=complete_machine)
@nix_options
@command
def disable(name: str, options: nix.Options) -> int:
    """Give NAME no more builds, until it is enabled again.

    Builds that run there go on to their end. Those that only wait there for a slot, or whose inputs are still on the
    way, go to another machine; if there is none, they wait until one is enabled. It holds over restarts.

    \b
    Examples:
      nix-ferry machine disable fast-box   since when it is out of use
    """
    here = Here(options)
    for each in here.named(name):
        _disable(here, each)
    return 0


@machine.command()
@click.argument("name", shell_complete=complete_machine)
@click.option("--wait", is_flag=True, help="Return only when nothing is built there any more.")
@nix_options
@command
def drain(name: str, wait: bool, options: nix.Options) -> int:
    """Disable NAME, and say what is still built there.

    Everything is as with 'disable'. With --wait it returns when the last build there has ended, or with an error when
    NAME is enabled again before. Ctrl-C ends only the waiting.

    \b
    Examples:
      nix-ferry machine drain fast-box   how many builds still run there
      nix-ferry machine drain --wait fast-box && ssh fast-box reboot   restarts it then
    """
    here = Here(options)
    machines = here.named(name)
    for each in machines:
        _disable(here, each)
    try:
        running = _say_running(here, machines)
        while wait and running:
            time.sleep(LOOK_S)
            for each in machines:
                if here.disabled.since(each) is None:
                    raise FerryError(f"'{here.address(each)}' was enabled again; not waiting any longer")
            if _running(here, machines) != running:
                running = _say_running(here, machines)
    except KeyboardInterrupt:
        raise FerryError("not waiting any longer; what was disabled stays so") from None
    return 0


@machine.command()
@click.argument("name", shell_complete=complete_machine)
@nix_options
@command
def enable(name: str, options: nix.Options) -> int:
    """Have NAME build again after 'disable' or 'drain'.

    If it has failed before, it is tried again at once.

    \b
    Examples:
      nix-ferry machine enable fast-box   that it is enabled, and whether it was before
    """
    here = Here(options)
    for each in here.named(name):
        was_out = here.disabled.remove(each)
        say_they_work([each.uri.text], os.environ)
        click.echo(f"'{here.address(each)}' is enabled" + ("" if was_out else ", and was before"))
    return 0


@machine.command("retry")
@click.argument("name", shell_complete=complete_machine)
@nix_options
@command
def retry_(name: str, options: nix.Options) -> int:
    """Have builds try NAME again at once, whatever they have found of it.

    A machine that fails is left alone for a while, up to 5 minutes. This ends that, as does every command that finds it
    to work: 'ping', 'doctor', 'machine add' and 'machine enable'.

    \b
    Examples:
      nix-ferry machine retry fast-box   what kept builds from it, if there was something
    """
    here = Here(options)
    directory = broker_directory(os.environ)
    overview = overview_of(directory) or {"machines": []}
    reasons = {each["machine"]: each["reason"] for each in overview["machines"] if each["state"] == "failed"}
    for each in here.named(name):
        address = here.address(each)
        reason = reasons.get(address)
        retry(directory, each.uri.text)
        click.echo(
            f"'{address}' is tried again" + (f"; it had failed: {reason}" if reason else ", and was not left alone")
        )
    return 0


def _disable(here: Here, each: Machine) -> None:
    here.disabled.add(each)
    click.echo(f"'{here.address(each)}' is {here.disabled.reason(each)}")


def _say_running(here: Here, machines: Sequence[Machine]) -> int:
    running = _running(here, machines)
    builds = "nothing is" if running == 0 else "1 build is" if running == 1 else f"{running} builds are"
    click.echo(f"{builds} running there")
    return running


def _running(here: Here, machines: Sequence[Machine]) -> int:
    # Lines with one address share their slots.
    most = {here.address(each): each for each in sorted(machines, key=lambda each: each.max_jobs)}
    return sum(map(here.busy, most.values()))


def _entry(here: Here, each: Machine) -> Entry:
    since = here.disabled.since(each)
    try:
        busy: int | None = here.busy(each)
    except FerryError:
        busy = None
    return Entry(
        machine=here.address(each),
        systems=each.systems,
        max_jobs=each.max_jobs,
        busy=busy,
        speed_factor=each.speed_factor,
        supported_features=sorted(each.supported),
        mandatory_features=sorted(each.mandatory),
        state=_state(here, since, busy),
        disabled_since=since,
        origin=each.origin,
        line=each.text,
    )


def _state(here: Here, since: float | None, busy: int | None) -> str:
    if since is None:
        return "enabled" if here.disabled.is_visible() else "?"
    return "draining" if busy else "disabled"
