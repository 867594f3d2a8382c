"""`nix-ferry explain`: which machine a derivation would be built on now, why not on the others, and what Nix does then.

Asks the same pure decision as the hook, with the settings and the slots of this moment, and then the machines that are
able to build it what they lack; builds nothing and keeps no slot.  Tested in lab/test_command.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import click

from hook.cli import daemon, nix
from hook.cli.command import as_json, command, nix_options, warn
from hook.cli.complete import complete_file
from hook.cli.here import Here
from hook.cli.output import print_json, print_table
from hook.cli.probe.lacking import Inputs, Lack, inputs_of, lacks_of, read_derivation
from hook.cli.probe.ping import own_store
from hook.cli.status.history import show_recent
from hook.cli.words import size
from hook.errors import ConfigurationError, FerryError
from hook.front.request import Request
from hook.machines.builders import Machine
from hook.machines.schedule import Answer, Candidate, Decision, Host, decide, suitable
from hook.machines.slots import MOST_SLOTS
from hook.values.requirements import prefers_local_build, required_features


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


def explained(drv_path: str, here: Here) -> Explanation:
    """What would become of the derivation at `drv_path` if Nix asked for it now."""
    derivation = read_derivation(drv_path)
    host, warnings = here.host, list(here.warnings)
    request = Request(derivation.system, drv_path, required_features(derivation), am_willing=host.max_jobs > 0)
    try:
        candidates = [_candidate(machine, request, here) for machine in here.machines]
    except ConfigurationError as error:
        warnings.append(f"cannot see which slots are in use, and takes all for free: {error}")
        candidates = [Candidate(machine, 0, machine.max_jobs > 0) for machine in here.machines]
    candidates = [replace(each, disabled=here.disabled.reason(each.machine)) for each in candidates]
    decision = decide(request, host, candidates)
    if daemon.is_used(here.settings, here.environ) and nix.is_trusted() is False:
        warnings.append("the daemon does not trust you: it goes by its own 'builders' and max-jobs, not by yours")
    inputs, lacks = None, {}
    if location := own_store(here.settings, here.environ):
        try:
            inputs = inputs_of(derivation, location)
        except FerryError as error:
            warnings.append(f"cannot see what it reads: {error.one_line}")
        else:
            able = [machine for machine in here.machines if suitable(request, machine) is None]
            lacks = lacks_of(able, inputs, here.routes, host.release)
    prefers_here = prefers_local_build(derivation)
    return Explanation(drv_path, request, host, prefers_here, decision, tuple(warnings), inputs, lacks)


def _candidate(machine: Machine, request: Request, here: Here) -> Candidate:
    """A machine with the number of its slots in use, where that matters."""
    if suitable(request, machine) is not None:
        return Candidate(machine)
    busy = here.busy(machine)
    return Candidate(machine, busy, busy < min(machine.max_jobs, MOST_SLOTS))


@click.command()
@click.argument("installable", required=False, shell_complete=complete_file)
@click.option("--recent", is_flag=True, help="What was decided lately, of paths that contain INSTALLABLE, if given.")
@nix_options
@as_json
@command
def explain(installable: str | None, recent: bool, options: nix.Options, as_json: bool) -> int:
    """Say for every machine why it would or would not build INSTALLABLE.

    INSTALLABLE is a derivation (/nix/store/….drv), a file with Nix code, or a flake reference like nixpkgs#hello.
    Nothing is built.

    \b
    Examples:
      nix-ferry explain ./default.nix    each machine with a verdict, and where it goes
      nix-ferry explain nixpkgs#hello --option max-jobs 0   if nothing could be built here
      nix-ferry explain --recent hello   what was decided about it lately, and why
    """
    if recent:
        return show_recent(installable, as_json=as_json)
    if installable is None:
        raise click.UsageError("Missing argument 'INSTALLABLE'.")
    here = Here(options)
    explanations = [explained(path, here) for path in nix.derivation_paths(installable, options)]
    if not explanations:
        raise FerryError(f"'{installable}' stands for no derivation")
    if as_json:
        print_json([explanation.to_json() for explanation in explanations])
        return 0
    for number, explanation in enumerate(explanations):
        if number:
            click.echo()
        needs = [explanation.request.system, *sorted(explanation.request.features)]
        click.echo(f"{explanation.drv_path} needs {', '.join(needs)}")
        warn(explanation.warnings)
        if rows := explanation.rows():
            print_table(("MACHINE", "LACKS", "VERDICT"), rows)
        else:
            click.echo("no machine is configured: 'builders' is empty, or the file it names")
        if explanation.reads:
            click.echo(explanation.reads)
        click.echo(f"so {explanation.outcome}")
    return 0
