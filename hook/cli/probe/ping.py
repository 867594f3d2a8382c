"""`nix-ferry ping`: connect to machines as a build would, and say how long each step took or what is wrong."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace

import click

from hook.broker.client import say_they_work
from hook.cli import nix
from hook.cli.command import as_json, command, nix_options, warn
from hook.cli.complete import complete_machine
from hook.cli.doctor import storekinds
from hook.cli.here import Here
from hook.cli.output import print_json, print_table
from hook.cli.probe.speed import HEADER as SPEED_HEADER
from hook.cli.probe.speed import Speed, measure
from hook.cli.probe.together import at_once
from hook.errors import EXIT_FAILED, FerryError, MachineError, StockOnly, Trouble
from hook.machines.builders import Machine
from hook.protocol.handshake import quoted
from hook.protocol.worker import WorkerClient
from hook.remote.connection import Address, Link, Remote
from hook.remote.diagnosis import with_advice
from hook.remote.ownstore import refuse_own
from hook.remote.routes import Routes
from hook.store.location import StoreLocation, find_store
from hook.values.release import Release
from hook.values.settings import Settings

TRUST = {True: "yes", False: "no", None: "unknown"}


@dataclass(frozen=True, slots=True)
class Pong:
    """What came back from one machine.

    `connect_s` is the time from starting ssh to the end of the handshake, `request_s` that of one more question over
    the same connection: what a warm build pays for each round trip.  `error` says what went wrong instead.
    """

    machine: str
    connect_s: float | None = None
    request_s: float | None = None
    protocol: str = ""
    nix: str = ""
    trusted: bool | None = None
    noise: str = ""
    """The beginning of what came before the protocol."""
    speed: Speed | None = None
    """If it was asked for."""
    error: str = ""
    trouble: Trouble | None = None
    """The kind of error, where that is known."""
    advice: str = ""
    """What helps, which is part of the error, too."""

    @property
    def says(self) -> str:
        """Its Nix and protocol, as far as it told them."""
        return (f"Nix {self.nix}, " if self.nix else "") + f"protocol {self.protocol}"

    def row(self, *, speed: bool = False) -> tuple[str, ...]:
        """Cells of a table, with those for speed or without."""
        speeds = (self.speed or Speed()).row() if speed else ()
        if self.error:
            return self.machine, "-", "-", "-", *speeds, self.error
        return self.machine, _ms(self.connect_s), _ms(self.request_s), TRUST[self.trusted], *speeds, self.says


def header(*, speed: bool = False) -> tuple[str, ...]:
    """What stands above the cells."""
    return "MACHINE", "CONNECT", "REQUEST", "TRUSTED", *(SPEED_HEADER if speed else ()), "SAYS"


def answers(machines: Sequence[Machine], routes: Routes, release: Release, ours: StoreLocation | None) -> list[Pong]:
    """Ask all machines at once, also whether they are the store that is `ours`.

    Builds then know, too, that those work which do.
    """
    pongs = at_once(lambda machine: _ping(machine, routes, release, ours), machines)
    well = [machine.uri.text for machine, pong in zip(machines, pongs, strict=True) if not pong.error]
    say_they_work(well, os.environ)
    return pongs


def own_store(settings: Settings, environ: Mapping[str, str]) -> StoreLocation | None:
    """The store that builds of this host are for; None if it is not for this user to look into."""
    uri = settings.text("store", "auto")
    try:
        location = find_store("local" if uri in ("", "auto", "daemon") else uri, environ)
    except FerryError:
        return None
    return location if os.access(location.state_dir, os.R_OK | os.W_OK) else None


def _ping(machine: Machine, routes: Routes, release: Release, ours: StoreLocation | None) -> Pong:
    name = machine.uri.render(release)
    if wrong := storekinds.unknown(machine.uri):
        return Pong(name, error=wrong)
    start = time.perf_counter()
    try:
        with closing(Link(Address(routes.to(machine), machine.uri.scheme, name))) as link:
            remote = Remote(link)
            connected = time.perf_counter()
            remote.client.query_valid_paths([], substitute=False)
            answered = time.perf_counter()
            if ours is not None:
                refuse_own(remote, ours.store_dir, ours.state_dir)
    except MachineError as error:
        error = with_advice(error)
        return Pong(name, error=error.one_line, trouble=error.trouble, advice=error.advice)
    except StockOnly as reason:
        return Pong(name, error=f"builds there are left to the stock hook: {reason.one_line}")
    except FerryError as error:
        return Pong(name, error=error.one_line)
    client = remote.client
    nix, trusted = (client.hello.nix_version, client.trusted) if isinstance(client, WorkerClient) else ("", None)
    protocol = "{}.{}".format(*client.version)
    return Pong(name, connected - start, answered - connected, protocol, nix, trusted, quoted(client.noise))


def to_json(pongs: Sequence[Pong]) -> list[dict[str, object]]:
    """For programs."""
    return [{**asdict(pong), "trouble": pong.trouble and pong.trouble.name.lower()} for pong in pongs]


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.0f} ms"


@click.command()
@click.argument("machines", nargs=-1, metavar="[MACHINE]...", shell_complete=complete_machine)
@click.option("--speed", is_flag=True, help="Also measure what ssh carries each way, which takes some seconds each.")
@nix_options
@as_json
@command
def ping(machines: Sequence[str], speed: bool, options: nix.Options, as_json: bool) -> int:
    """Connect to machines as a build would, and say how long that takes.

    All of 'builders' are asked, or those whose address contains MACHINE; all at once. Of one that cannot be
    used it tells why, as the hook would.

    \b
    Examples:
      nix-ferry ping                    how long each takes, its Nix, and whether it trusts us
      nix-ferry ping --speed fast-box   also how much ssh carries to and from that one
      nix-ferry ping --json | jq '.[] | select(.error != "")'   only those that cannot be used
    """
    here = Here(options)
    chosen = here.like(machines)
    pongs = answers(chosen, here.routes, here.host.release, own_store(here.settings, here.environ))
    if speed:
        # One after the other: they share the link of this host.
        pairs = zip(chosen, pongs, strict=True)
        pongs = [pong if pong.error else replace(pong, speed=measure(machine, here.routes)) for machine, pong in pairs]
    if as_json:
        print_json(to_json(pongs))
    else:
        warn([*here.complaints, *here.warnings])
        print_table(header(speed=speed), [pong.row(speed=speed) for pong in pongs])
    return EXIT_FAILED if any(pong.error for pong in pongs) else 0
