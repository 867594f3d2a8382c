"""Which machines one build may go to, now or later.

Whether a machine suits a build never changes, so that is asked once; whether it can be used is asked each time.  Tested
in test_prospects.py, and with what it serves in test_dispatch.py and test_waiting.py.
"""

from hook.front.request import Request
from hook.machines.builders import Machine
from hook.machines.identity import QueueOf
from hook.machines.schedule import Host, suitable
from hook.session.roster import Roster


class Prospects:
    """Those of `request` among the machines of `roster`; its answers are in the order of `builders`."""

    def __init__(self, request: Request, roster: Roster) -> None:
        self.request = request
        self._roster = roster
        self._suitable = frozenset(machine for machine in roster.machines if suitable(request, machine) is None)

    def suits(self, machine: Machine) -> bool:
        """Whether `machine` is one for such builds."""
        return machine in self._suitable

    def able(self) -> list[Machine]:
        """The machines that could build it, disabled or failing ones included, but none that was given up here."""
        return [m for m in self._roster.machines if self.suits(m) and self.given_up(m) is None]

    def usable(self) -> list[Machine]:
        """The machines that lack nothing for it but, perhaps, a free slot."""
        return [m for m in self._roster.machines if m.max_jobs and self.suits(m) and self.obstacle(m) is None]

    def any_left(self) -> bool:
        """Whether a machine that this conversation has not given up could build it, now or later."""
        return any(machine.max_jobs for machine in self.able())

    def unwilling(self, machine: Machine) -> str | None:
        """Why `machine` must not have it, though it may work."""
        return self._roster.disabled.reason(machine) or self._roster.refusal(self.request.drv_path, machine)

    def obstacle(self, machine: Machine) -> str | None:
        """Why `machine` may not be used now for this build."""
        return self.unwilling(machine) or self._roster.trouble(machine)

    def given_up(self, machine: Machine) -> str | None:
        """Why `machine` is not used again for this build."""
        return self._roster.out(machine) or self._roster.refusal(self.request.drv_path, machine)

    def why_all_are_down(self) -> str | None:
        """Why no machine that could build it can be used now, for the user; None if one can, or if there is none."""
        able = [machine for machine in self._roster.machines if machine.max_jobs and self.suits(machine)]
        obstacles = {machine: self.obstacle(machine) for machine in able}
        if not able or not all(obstacles.values()):
            return None
        return "; ".join(f"'{self._roster.name(machine)}': {obstacle}" for machine, obstacle in obstacles.items())

    def why_nowhere(self) -> str:
        """Why the machines that this conversation has given up for this build are of no use, for the user."""
        given_up = {machine: self.given_up(machine) for machine in self._roster.machines}
        return "; ".join(f"'{self._roster.name(machine)}': {reason}" for machine, reason in given_up.items() if reason)

    def queue_of(self, private_dir: str, host: Host) -> QueueOf:
        """The queue in which it waits with those that wait for the same machines."""
        lines = tuple(machine.text for machine in self._roster.machines if self.given_up(machine) is None)
        return QueueOf(private_dir, host, lines, self.request.system, self.request.features, self._roster.seen)
