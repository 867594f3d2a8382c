"""The machines of one conversation with Nix, and what it has found out about each.

What is true for others, too, is in the hub: a Roster knows by which name.  Which of its machines one build may go to is
the question of prospects.py.  Tested in test_dispatch.py, test_promises.py and test_disabled.py.
"""

from typing import TYPE_CHECKING

from hook.errors import MachineError, NotTrusted, Trouble
from hook.machines.builders import Machine
from hook.machines.disabled import Disabled
from hook.machines.identity import HealthOf, MachineInUse, SeenBySsh, SlotsOf, ssh_looks_at
from hook.recent import Recent
from hook.session.hub import Hub
from hook.session.services import Services

if TYPE_CHECKING:
    from hook.remote.connection import Remote

LOSSES_ALLOWED = 2
"""How often one build may lose a machine, or see others fail in a row with it, before that machine is out for it."""

MOST_UNWELCOME = 1000
"""How many builds one conversation remembers for what a machine would refuse."""


class Roster:
    """Machines in the order of `builders`; used by one thread."""

    def __init__(self, hub: Hub, services: Services) -> None:
        self._services = services
        self._health = hub.health
        self.machines = services.machines
        self.disabled = Disabled(services.private_dir)
        scope = hub.configurations.scope(services.environ) if hub.configurations else None
        self.seen: SeenBySsh = ssh_looks_at(services.environ, scope)
        self._out: dict[Machine, str] = {}
        self._losses: dict[Machine, int] = {}
        self._tried: set[Machine] = set()
        self._unwelcome: Recent[tuple[str, Machine], str] = Recent(MOST_UNWELCOME)

    # What they are called

    def name(self, machine: Machine) -> str:
        """What `machine` is called in messages and lock files."""
        return machine.uri.render(self._services.host.release)

    def slots_of(self, machine: Machine) -> SlotsOf:
        """Whose slots these are: lines of `builders` with one address share them."""
        return SlotsOf(self._services.private_dir, machine.uri.lock_stem(self._services.host.release))

    def health_of(self, machine: Machine) -> HealthOf:
        """Whose health this is: a line can mean another machine to a caller with other keys, or its own store."""
        own = self._services.store.state_dir
        return HealthOf(machine.uri.text, machine.ssh_key, machine.public_host_key, self.seen, own)

    def in_use(self) -> list[MachineInUse]:
        """All of them, for whoever tells of them."""
        return [
            MachineInUse(
                name=self.name(machine),
                machine=machine,
                health=self.health_of(machine),
                at=self.slots_of(machine),
                lock_stem=self.slots_of(machine).lock_stem,
                state_dir=self._services.store.state_dir,
                private_dir=self._services.private_dir,
            )
            for machine in self.machines
        ]

    # What is known

    @property
    def losses(self) -> set[Machine]:
        """Those that the build of this conversation has lost."""
        return set(self._losses)

    def out(self, machine: Machine) -> str | None:
        """Why this conversation does not use `machine` any more."""
        return self._out.get(machine)

    def refusal(self, drv_path: str, machine: Machine) -> str | None:
        """Why `machine` would refuse this build, but not others."""
        return self._unwelcome.get((drv_path, machine))

    def trouble(self, machine: Machine) -> str | None:
        """Why `machine` cannot be used now, as far as it is not for the user to say."""
        return self._out.get(machine) or self._health.obstacle(self.health_of(machine))

    def distrust(self, machine: Machine) -> str | None:
        """Why `machine` may refuse what only users it trusts may do; None if nothing is known of that."""
        return self._health.distrust(self.health_of(machine))

    def is_fresh(self, machine: Machine) -> bool:
        """Whether it worked so recently that it is taken to work."""
        return self._health.is_fresh(self.health_of(machine))

    def is_proven(self, machine: Machine) -> bool:
        """Whether something came from it within the last moment."""
        return self._health.is_proven(self.health_of(machine))

    def failures(self, machine: Machine) -> int:
        """How often tries of it have failed in a row, for those who wait."""
        return self._health.failures(self.health_of(machine))

    def untried(self) -> list[Machine]:
        """Those of which nobody knows that they work."""
        return [machine for machine in self.machines if not self.is_fresh(machine)]

    # What becomes known

    def leave_out(self, machine: Machine, reason: str) -> None:
        """Use `machine` no more in this conversation."""
        self._out[machine] = reason

    def spare(self, drv_path: str, machine: Machine, reason: str) -> None:
        """Do not give this build to `machine`, which would refuse it; others it may take."""
        self._unwelcome.put((drv_path, machine), reason)

    def has_failed_often(self, machine: Machine) -> None:
        """Whoever waited for it has seen as many failures as one build may see."""
        reason = self._health.obstacle(self.health_of(machine)) or f"has failed {LOSSES_ALLOWED} times in a row"
        self._out.setdefault(machine, reason)

    def try_it(self, machine: Machine) -> None:
        """A build is to go there: if it had failed, this conversation alone may see whether it works again."""
        if self._health.trying(self.health_of(machine)):
            self._tried.add(machine)

    def is_tried(self, machine: Machine) -> bool:
        """Whether it is for this conversation to find out whether it works again."""
        return machine in self._tried

    def give_up_trying(self, machine: Machine) -> None:
        """It is for another one to find out, unless this one has."""
        if machine in self._tried:
            self._tried.discard(machine)
            self._health.abandoned(self.health_of(machine))

    def met(self, machine: Machine, remote: "Remote") -> None:
        """`remote` is a connection to it."""
        health = self.health_of(machine)
        remote.stream.heard = self._health.ear(health)
        self._health.trusts(health, trusted=remote.client.trusted, begun_at=remote.begun_at)

    def works(self, machine: Machine) -> None:
        """It has answered."""
        self._health.worked(self.health_of(machine))
        self._tried.discard(machine)

    def has_failed(self, machine: Machine, error: MachineError) -> None:
        """There is no connection to be had."""
        self._out[machine] = error.one_line
        self._health.failed(self.health_of(machine), error.one_line, error.trouble.pause_s)
        self._tried.discard(machine)

    def lost(self, machine: Machine, error: MachineError) -> None:
        """It went away during a build, or refused it."""
        health = self.health_of(machine)
        self._losses[machine] = self._losses.get(machine, 0) + 1
        # Any other build would only find out again.
        is_full = error.trouble is Trouble.DISK_FULL
        if is_full:
            self._health.failed(health, error.one_line, error.trouble.pause_s, by_build=True)
        else:
            self._health.doubt(health)
        if isinstance(error, NotTrusted):
            self._health.refused(health, error.one_line)
        if is_full or isinstance(error, NotTrusted) or self._losses[machine] >= LOSSES_ALLOWED:
            self._out[machine] = error.one_line
