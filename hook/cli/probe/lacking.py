"""How much of what a build reads is not on a machine yet: asked of the machines, over connections as builds have them.

Nothing is copied or substituted.  Tested in test_lacking.py, and in tests/lab/test_command.py.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from hook.cli.probe.together import at_once
from hook.cli.words import size
from hook.errors import FerryError
from hook.machines.builders import Machine
from hook.remote.connection import Address, Link, Remote
from hook.remote.routes import Routes
from hook.remote.watch import Deadline
from hook.store.database import Database
from hook.store.location import StoreLocation
from hook.values.derivation import Derivation, parse_derivation
from hook.values.release import Release

ANSWER_S = 20.0
"""What a machine has to answer, once it is connected."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a build reads: the size of each path, with all that they refer to.  `unbuilt` have to be built first."""

    sizes: Mapping[str, int]
    unbuilt: int


@dataclass(frozen=True, slots=True)
class Lack:
    """What a machine does not have; `error` is why it could not be asked."""

    paths: int = 0
    size_bytes: int = 0
    error: str = ""

    @property
    def words(self) -> str:
        """For the user."""
        if self.error:
            return "not reached"
        return f"{self.paths} paths, {size(self.size_bytes)}" if self.paths else "nothing"

    def to_json(self) -> dict[str, object]:
        """For programs."""
        return {"error": self.error} if self.error else {"paths": self.paths, "bytes": self.size_bytes}


def inputs_of(derivation: Derivation, store: StoreLocation) -> Inputs:
    """The inputs that are there, with their closure.  FerryError if the store is not for us to look into."""
    wanted = set(derivation.input_srcs)
    unknown = 0
    for path, names in derivation.input_drvs:
        outputs = read_derivation(os.path.join(store.real_store_dir, os.path.basename(path))).outputs
        known = {output.path for name, output in outputs if name in names and output.path}
        unknown += len(names) - len(known)
        wanted |= known
    with Database.open(store.state_dir) as database:
        valid = database.valid_among(wanted)
        infos = database.path_infos(database.closure(valid))
    return Inputs({path: info.nar_size for path, info in infos.items()}, unknown + len(wanted - valid))


def read_derivation(file: str) -> Derivation:
    """What a file of the store says; FerryError if that is not understood."""
    try:
        with open(file, "rb") as opened:
            return parse_derivation(opened.read())
    except OSError as error:
        raise FerryError(f"cannot read '{file}': {error.strerror}") from None
    except FerryError as error:
        raise FerryError(f"cannot understand '{file}': {error.one_line}") from None


def lacks_of(machines: Sequence[Machine], inputs: Inputs, routes: Routes, release: Release) -> dict[str, Lack]:
    """Ask all of them at once; by what they are called."""
    found = at_once(lambda machine: _ask(machine, inputs, routes, release), machines)
    return {machine.uri.render(release): lack for machine, lack in zip(machines, found, strict=True)}


def _ask(machine: Machine, inputs: Inputs, routes: Routes, release: Release) -> Lack:
    try:
        address = Address(routes.to(machine), machine.uri.scheme, machine.uri.render(release))
        with closing(Link(address)) as link:
            remote = Remote(link)
            remote.be_ready()
            remote.stream.watch = Deadline(ANSWER_S)
            missing = inputs.sizes.keys() - remote.client.query_valid_paths(inputs.sizes.keys(), substitute=False)
    except FerryError as error:
        return Lack(error=error.one_line)
    return Lack(len(missing), sum(inputs.sizes[path] for path in missing))
