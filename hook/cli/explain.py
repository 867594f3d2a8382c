"""`nix-ferry explain`: which machine a derivation would be built on now, why not on the others, and what Nix does then.

Asks the same pure decision as the hook, with the settings and the slots of this moment; builds nothing and keeps no
slot.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from hook.disabled import Disabled
from hook.errors import ConfigurationError, FerryError
from hook.machines import Machine
from hook.schedule import Answer, Candidate, Decision, Host, Request, decide, suitable
from hook.services import host_of, machines_of
from hook.settings import Settings
from hook.slots import SlotTable
from hook.store.derivation import Derivation, parse_derivation
from hook.store.requirements import prefers_local_build, required_features


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would happen to one derivation, and why."""

    drv_path: str
    request: Request
    host: Host
    prefers_here: bool
    decision: Decision
    warnings: tuple[str, ...]

    @property
    def outcome(self) -> str:
        """What Nix does, in one sentence."""
        here = self.host.could_build(self.request)
        if self.prefers_here and here:
            return "Nix builds it on this host and asks no build hook: it has preferLocalBuild set"
        match self.decision.answer:
            case Answer.ACCEPT:
                return f"it goes to '{self._chosen()}'"
            case Answer.POSTPONE:
                return "it waits for a slot of one of these machines"
            case _ if here:
                return "this host builds it"
        return "Nix cannot build it: no machine is able to, nor is this host"

    def _chosen(self) -> str:
        machine = self.decision.machine
        assert machine is not None
        return machine.uri.render(self.host.release)

    def rows(self) -> list[tuple[str, str]]:
        """Each machine and the reason for or against it."""
        return [(v.machine.uri.render(self.host.release), v.reason) for v in self.decision.verdicts]

    def to_json(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "derivation": self.drv_path,
            "system": self.request.system,
            "features": sorted(self.request.features),
            "preferLocalBuild": self.prefers_here,
            "hostCouldBuild": self.host.could_build(self.request),
            "answer": self.decision.answer.value,
            "outcome": self.outcome,
            "machines": [{"machine": name, "reason": reason} for name, reason in self.rows()],
            "warnings": list(self.warnings),
        }


def explain(drv_path: str, settings: Settings, environ: Mapping[str, str]) -> Explanation:
    """What would become of the derivation at `drv_path` if Nix asked for it now."""
    derivation = _read(drv_path)
    host = host_of(settings)
    machines, warnings = machines_of(settings, host)
    request = Request(derivation.system, drv_path, required_features(derivation), am_willing=host.max_jobs > 0)
    state_dir = environ.get("NIX_STATE_DIR") or "/nix/var/nix"
    disabled = Disabled(os.path.join(state_dir, "nix-ferry"))
    try:
        candidates = _probe(SlotTable(state_dir), request, host, machines)
    except ConfigurationError as error:
        warnings = [*warnings, f"cannot see which slots are in use, and takes all for free: {error}"]
        candidates = [Candidate(machine, 0, machine.max_jobs > 0) for machine in machines]
    candidates = [replace(each, disabled=disabled.reason(each.machine)) for each in candidates]
    decision = decide(request, host, candidates)
    return Explanation(drv_path, request, host, prefers_local_build(derivation), decision, tuple(warnings))


def _read(drv_path: str) -> Derivation:
    try:
        with open(drv_path, "rb") as file:
            return parse_derivation(file.read())
    except OSError as error:
        raise FerryError(f"cannot read '{drv_path}': {error.strerror}") from None
    except FerryError as error:
        raise FerryError(f"cannot understand '{drv_path}': {error.one_line}") from None


def _probe(slots: SlotTable, request: Request, host: Host, machines: list[Machine]) -> list[Candidate]:
    """Every machine with the number of its slots in use, where that matters."""
    candidates = []
    with slots.selection():
        for machine in machines:
            if suitable(request, machine) is not None:
                candidates.append(Candidate(machine))
                continue
            slot, busy = slots.probe(machine.uri.lock_stem(host.release), machine.max_jobs)
            candidates.append(Candidate(machine, busy, slot is not None))
            if slot is not None:
                slot.release()
    return candidates
