"""What a broker says of itself: its machines, the builds that are under way, and totals since it began.

Reads what others keep, slots included; changes nothing.  The answer is what `nix-ferry status
--json` prints.  Tested in test_overview.py.
"""

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import hook
from hook.broker.identity import IDENTITY
from hook.errors import ConfigurationError
from hook.machines.disabled import Disabled
from hook.machines.identity import MachineInUse
from hook.machines.slots import BusyError, SlotTable
from hook.session.hub import Hub
from hook.session.ledger import Build, Outcome, Phase, Total

SLOTS_PATIENCE_S = 2.0
"""How long a store's slots are waited for while others choose there: whoever asks waits for less than ten seconds."""


def overview(hub: Hub) -> dict[str, Any]:
    """Everything, as JSON has it; times are seconds since 1970."""
    builds, totals = hub.ledger.standing()
    connected = Counter(build.machine for build in builds if build.phase is not Phase.CONNECTING)
    idle = hub.pool.idle()
    locked: set[str] = set()
    machines = [_machine(machine, hub, connected, idle, locked) for machine in hub.ledger.machines()]
    return {
        "version": hook.__version__,
        "identity": IDENTITY,
        "pid": os.getpid(),
        "since": hub.ledger.since,
        "now": time.time(),
        "machines": machines,
        "builds": _builds(builds, {machine["machine"]: machine["reason"] for machine in machines}),
        "answers": hub.ledger.answers(),
        "totals": [_total(machine, total) for machine, total in sorted(totals.items())],
    }


def nothing() -> dict[str, Any]:
    """The same where there is no broker."""
    return {"version": None, "identity": None, "pid": None, "machines": [], "builds": [], "answers": {}, "totals": []}


def _machine(
    machine: MachineInUse, hub: Hub, connected: Mapping[str, int], idle: Mapping[str, int], locked: set[str]
) -> dict[str, Any]:
    state, reason = _health(machine, hub, in_use=connected[machine.name] > 0)
    answered = hub.health.answered_s_ago(machine.health)
    return {
        "machine": machine.name,
        "state": state,
        "reason": reason,
        "answered_s_ago": None if answered is None else round(answered, 1),
        "slots": machine.machine.max_jobs,
        "slots_used": _slots_used(machine, locked),
        "slots_lent": hub.look_ahead.lent(machine.at),
        "builds_ahead": hub.look_ahead.count(machine.at),
        "connections_used": connected[machine.name],
        "connections_idle": idle[machine.name],
    }


def _health(machine: MachineInUse, hub: Hub, *, in_use: bool) -> tuple[str, str]:
    """In a word, and why; `works` is what it did within the last minute, whatever has become of the link since."""
    if disabled := Disabled(machine.private_dir).reason(machine.machine):
        return "disabled", disabled
    if obstacle := hub.health.obstacle(machine.health):
        return "failed", obstacle
    if hub.health.is_fresh(machine.health):
        return "works", ""
    return ("in use" if in_use else "not asked lately"), ""


def _slots_used(machine: MachineInUse, locked: set[str]) -> int | None:
    """By whatever hooks on this host; None if that cannot be seen.

    Adds to `locked` the stores where somebody has kept others from looking for too long; they are not asked again.
    """
    if machine.state_dir in locked:
        return None
    try:
        return SlotTable(machine.state_dir).busy(machine.lock_stem, machine.machine.max_jobs, SLOTS_PATIENCE_S)
    except BusyError:
        locked.add(machine.state_dir)
    except ConfigurationError:
        pass
    return None


def _builds(builds: Iterable[Build], reasons: Mapping[str, str]) -> list[dict[str, Any]]:
    """The oldest first; those that wait with their place in the line, or why their machine gives them no slot.

    `reasons` are why machines cannot be used now; empty for one that can.
    """
    builds = [replace(build, machine=_machine_of(build, reasons)) for build in builds]
    lines: Counter[str] = Counter()
    positions: dict[int, int] = {}
    for build in sorted(builds, key=lambda build: build.phase_since):
        if build.phase is Phase.WAITING:
            lines[build.machine] += 1
            positions[id(build)] = lines[build.machine]
    return [
        {
            "derivation": build.drv_path,
            "machine": build.machine,
            "phase": build.phase.value,
            "position": positions.get(id(build)),
            "obstacle": reasons.get(build.machine, "") if id(build) in positions else "",
            "since": build.since,
            "phase_since": build.phase_since,
            "sent_bytes": build.sent_bytes,
            "received_bytes": build.received_bytes,
        }
        for build in builds
    ]


def _machine_of(build: Build, reasons: Mapping[str, str]) -> str:
    """The machine that has the build, or for which it waits: one that cannot be used now only if all are so."""
    if build.phase is not Phase.WAITING or not reasons.get(build.machine):
        return build.machine
    return next((machine for machine in build.able if not reasons.get(machine, "unknown")), build.machine)


def _total(machine: str, total: Total) -> dict[str, Any]:
    """Of one machine, since the broker began."""
    return {
        "machine": machine,
        "builds": {outcome.value: total.builds[outcome] for outcome in Outcome},
        "seconds": {phase.value: total.seconds[phase] for phase in Phase},
        "sent_bytes": total.sent_bytes,
        "received_bytes": total.received_bytes,
    }
