"""`nix-ferry explain`: which machine a derivation would be built on now, why not on the others, and what Nix does then.

Asks the same pure decision as the hook, with the settings and the slots of this moment, and then the machines that are
able to build it what they lack; builds nothing and keeps no slot.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from hook.cli import daemon, nix
from hook.cli.probe.lacking import Inputs, Lack, inputs_of, lacks_of, read_derivation
from hook.cli.probe.ping import own_store
from hook.cli.words import size
from hook.config import find_config
from hook.errors import ConfigurationError, FerryError
from hook.front.request import Request
from hook.machines.builders import Machine
from hook.machines.configured import host_of, machines_of
from hook.machines.disabled import Disabled
from hook.machines.schedule import Answer, Candidate, Decision, Host, decide, suitable
from hook.machines.slots import MOST_SLOTS, SlotTable
from hook.remote.routes import Routes
from hook.values.requirements import prefers_local_build, required_features
from hook.values.settings import Settings


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would happen to one derivation, and why."""

    drv_path: str
    request: Request
    host: Host
    prefers_here: bool
    decision: Decision
    warnings: tuple[str, ...]
    inputs: Inputs | None
    """None if the store is not for this user to look into."""
    lacks: Mapping[str, Lack]
    """By machine, of those that were asked."""

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

    def rows(self) -> list[tuple[str, str, str]]:
        """Each machine, what it lacks, and the reason for or against it."""
        return [(name, lack.words if lack else "-", reason) for name, lack, reason in self._machines()]

    def _machines(self) -> list[tuple[str, Lack | None, str]]:
        named = [(v.machine.uri.render(self.host.release), v.reason) for v in self.decision.verdicts]
        return [(name, self.lacks.get(name), reason) for name, reason in named]

    @property
    def reads(self) -> str:
        """What it reads, in a sentence; empty if that is not known."""
        if self.inputs is None:
            return ""
        unbuilt = f", and {self.inputs.unbuilt} that are not built yet" if self.inputs.unbuilt else ""
        return f"it reads {len(self.inputs.sizes)} paths, {size(sum(self.inputs.sizes.values()))}{unbuilt}"

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
            "inputs": self.inputs
            and {
                "paths": len(self.inputs.sizes),
                "bytes": sum(self.inputs.sizes.values()),
                "unbuilt": self.inputs.unbuilt,
            },
            "machines": [
                {"machine": name, "reason": reason, "lacks": lack and lack.to_json()}
                for name, lack, reason in self._machines()
            ],
            "warnings": list(self.warnings),
        }


def explain(drv_path: str, settings: Settings, environ: Mapping[str, str], private_dir: str) -> Explanation:
    """What would become of the derivation at `drv_path` if Nix asked for it now."""
    derivation = read_derivation(drv_path)
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
    if daemon.is_used(settings, environ) and nix.is_trusted() is False:
        warnings = [
            *warnings,
            "the daemon does not trust you: it goes by its own 'builders' and max-jobs, not by yours",
        ]
    inputs, lacks = None, {}
    if location := own_store(settings, environ):
        try:
            inputs = inputs_of(derivation, location)
        except FerryError as error:
            warnings = [*warnings, f"cannot see what it reads: {error.one_line}"]
        else:
            config, _ = find_config(environ)
            routes = Routes(settings, host.release, environ, private_dir, os.getpid(), config.connect_timeout_s)
            able = [machine for machine in machines if suitable(request, machine) is None]
            lacks = lacks_of(able, inputs, routes, host.release)
    prefers_here = prefers_local_build(derivation)
    return Explanation(drv_path, request, host, prefers_here, decision, tuple(warnings), inputs, lacks)


def _probe(slots: SlotTable, request: Request, host: Host, machines: list[Machine]) -> list[Candidate]:
    """Every machine with the number of its slots in use, where that matters."""
    candidates = []
    for machine in machines:
        if suitable(request, machine) is not None:
            candidates.append(Candidate(machine))
        else:
            busy = slots.busy(machine.uri.lock_stem(host.release), machine.max_jobs)
            candidates.append(Candidate(machine, busy, busy < min(machine.max_jobs, MOST_SLOTS)))
    return candidates
