"""The life of one build, from Nix's question to the hook's exit status.

    settings → request → decide → connect → accept → upload → build → download → exit

A Session is given one front and the services it needs, and does not know which process it runs in.  Before `# accept`
every failure ends in an answer that lets Nix go on; afterwards a build ends in success, in its own failure, or after
every able machine was tried.  Tested in test_session.py with scripted machines, and in the lab.
"""

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hook.errors import (
    EXIT_FAILED,
    EXIT_OK,
    BuildFailed,
    ConfigurationError,
    FerryError,
    MachineError,
    NotTrusted,
    StockOnly,
    StoreError,
)
from hook.front import Front, Job
from hook.log import step
from hook.machines import Machine
from hook.protocol.activity import Verbosity
from hook.remote import Remote
from hook.schedule import Answer, Candidate, Decision, Host, Request, decide, no_machine_message, suitable
from hook.settings import Settings
from hook.slots import Slot, SlotTable
from hook.store.local import LocalStore
from hook.transport import REMOTE_PROGRAMS
from hook.trust import with_advice

if TYPE_CHECKING:
    from hook.build import Builder

LOSSES_ALLOWED = 2
"""How often one build may lose a machine before that machine is out."""

SLOT_POLL_S = 1.0
"""How often a build that lost its machine looks for a slot on a busy one."""


@dataclass(frozen=True, slots=True)
class Services:
    """What a session works with; opened from the parent's settings."""

    settings: Settings
    stock_settings: Settings
    """The same, as far as the stock hook can take them."""
    environ: Mapping[str, str]
    host: Host
    machines: tuple[Machine, ...]
    store: LocalStore
    slots: SlotTable
    private_dir: str


@dataclass(frozen=True, slots=True)
class Placement:
    """A build's place: a connected machine, with one of its slots held until `close`."""

    machine: Machine
    remote: Remote
    close: Callable[[], None]


class Session:
    """One conversation with Nix; `run` returns the hook's exit status."""

    def __init__(self, front: Front, open_services: Callable[[Settings], Services]) -> None:
        self._front = front
        self._log = front.log
        self._open_services = open_services
        self._disabled: dict[Machine, str] = {}
        self._losses: dict[Machine, int] = {}

    def run(self) -> int:
        """Answer requests until one is accepted and built, or Nix has no more."""
        if self._front.at_end():
            return EXIT_OK
        settings = self._front.read_settings()
        request = self._front.read_request()
        try:
            self._services = self._open_services(settings)
            settings = self._services.stock_settings
            while True:
                if placed := self._place(request):
                    return self._carry_out(request, *placed)
                if self._front.at_end():
                    return EXIT_OK
                request = self._front.read_request()
        except StockOnly as reason:
            text = f"handing '{request.drv_path}' to the stock build hook: {reason.one_line}"
            self._log.message(Verbosity.TALKATIVE, text)
            from hook import stock

            return stock.hand_over(self._front, settings, request)

    # Before the answer

    def _place(self, request: Request) -> tuple["Builder", Placement] | None:
        """Find and connect a machine, then accept; otherwise answer what fits and return None."""
        while True:
            decision, slot = self._decide(request)
            self._explain(request, decision)
            match decision.answer:
                case Answer.DECLINE:
                    self._front.decline()
                case Answer.DECLINE_PERMANENTLY:
                    self._front.decline_permanently()
                case Answer.POSTPONE:
                    self._front.postpone()
            if decision.machine is None or slot is None:
                return None
            try:
                placed = self._connect(decision.machine, slot, lambda: self._prepare(request))
            except StockOnly:
                raise
            except FerryError as error:
                self._log.error(f"cannot build '{request.drv_path}' on another machine: {error.one_line}")
                self._front.decline()
                return None
            if placed is not None:
                self._front.accept(placed[1].remote.name)
                return placed

    def _decide(self, request: Request, avoided: Collection[Machine] = ()) -> tuple[Decision, Slot | None]:
        """Choose a machine that is not among `avoided` and take its slot, in one step for all hooks on this host."""
        s = self._services
        candidates: list[Candidate] = []
        slots: dict[Machine, Slot | None] = {}
        with s.slots.selection():
            for machine in s.machines:
                load, disabled = None, "avoided" if machine in avoided else self._disabled.get(machine)
                if disabled is None and suitable(request, machine) is None:
                    try:
                        slots[machine], load = s.slots.probe(self._stem(machine), machine.max_jobs)
                    except ConfigurationError as error:
                        disabled = self._disabled[machine] = error.one_line
                candidates.append(Candidate(machine, load, slots.get(machine) is not None, disabled))
            decision = decide(request, s.host, candidates)
            for machine, slot in slots.items():
                if slot is not None and machine is not decision.machine:
                    slot.release()
            chosen = slots[decision.machine] if decision.machine else None
            if chosen is not None:
                chosen.touch()
            return decision, chosen

    def _explain(self, request: Request, decision: Decision) -> None:
        """Say why: every machine's verdict at `-v`, and stock's own text where no machine can ever do it."""
        for verdict in decision.verdicts:
            text = f"'{self._name(verdict.machine)}' for '{request.drv_path}': {verdict.reason}"
            self._log.message(Verbosity.TALKATIVE, text)
        if decision.answer is Answer.DECLINE and self._services.machines:
            level, text = no_machine_message(request, self._services.host, self._services.machines)
            self._log.message(level, text)

    def _connect(
        self, machine: Machine, slot: Slot, prepare: Callable[[], "Builder"]
    ) -> tuple["Builder", Placement] | None:
        """Connect to `machine`; if that fails say so, give up its slot, and leave it out from now on.

        `prepare` does what can be done meanwhile; its errors are passed on.
        """
        s, name = self._services, self._name(machine)
        with ExitStack() as held:
            held.callback(slot.release)
            if machine.uri.scheme not in REMOTE_PROGRAMS:
                raise StockOnly(f"machine '{name}' is not reached by ssh")
            with step(self._log, f"connecting to '{name}'"):
                try:
                    remote = held.enter_context(
                        Remote(machine, name, s.environ, s.private_dir, s.host.release, self._log)
                    )
                except (MachineError, ConfigurationError) as error:
                    self._leave_out(machine, error)
                    return None
                builder = prepare()
                try:
                    remote.shake_hands()
                    builder.check_machine(remote)
                except MachineError as error:
                    self._leave_out(machine, error)
                    return None
            return builder, Placement(machine, remote, held.pop_all().close)

    def _leave_out(self, machine: Machine, error: FerryError) -> None:
        """Use `machine` no more in this conversation."""
        self._disabled[machine] = error.one_line
        self._log.error(f"cannot build on '{self._name(machine)}': {error.one_line}")

    def _prepare(self, request: Request) -> "Builder":
        # Loaded while ssh authenticates: none of it is needed to choose a machine.
        from hook.build import Builder

        s = self._services
        # Also opens the database: one that needs the stock hook must be noticed before the accept.
        if not s.store.database.valid_among([request.drv_path]):
            raise StoreError(f"path '{request.drv_path}' is not valid")
        derivation = s.store.read_derivation(request.drv_path)
        return Builder(request.drv_path, derivation, s.settings, s.store, s.slots, self._log)

    # After `# accept`

    def _carry_out(self, request: Request, builder: "Builder", placement: Placement) -> int:
        """Build what was accepted, moving to another machine when one is lost."""
        try:
            job = self._front.read_job()
            while True:
                lost = self._attempt(builder, job, placement)
                if lost is None:
                    return EXIT_OK
                name = placement.remote.name
                placement.close()
                self._lose(placement.machine, lost)
                following = self._replace(request, builder)
                if following is None:
                    self._log.error(f"build of '{request.drv_path}' on '{name}' failed: {lost.one_line}")
                    return EXIT_FAILED
                where = "there again" if following.machine is placement.machine else f"on '{following.remote.name}'"
                moved = f"'{name}' was lost ({lost.one_line}); building {where}"
                self._log.message(Verbosity.WARN, f"warning: {moved}")
                placement = following
        except BuildFailed as error:
            self._log.error(f"build of '{request.drv_path}' on '{placement.remote.name}' failed: {error}")
            return EXIT_FAILED
        except FerryError as error:
            self._log.error(f"build of '{request.drv_path}' on '{placement.remote.name}' failed: {error.one_line}")
            return EXIT_FAILED
        finally:
            placement.close()

    def _attempt(self, builder: "Builder", job: Job, placement: Placement) -> MachineError | None:
        """One try on one machine; returns why the machine failed us, or None after success."""
        try:
            builder.run(placement.remote, job)
        except MachineError as error:
            return with_advice(placement.remote.explain(error))
        return None

    def _lose(self, machine: Machine, error: MachineError) -> None:
        self._losses[machine] = self._losses.get(machine, 0) + 1
        if self._losses[machine] >= LOSSES_ALLOWED or isinstance(error, NotTrusted):
            self._disabled[machine] = error.one_line

    def _replace(self, request: Request, builder: "Builder") -> Placement | None:
        """Another place for an accepted build, best on a machine it has not lost; None when no machine is left."""
        # It was promised to Nix, which will not build it itself any more, willing or not.
        request = replace(request, am_willing=False)
        while True:
            decision, slot = self._decide(request, self._losses)
            if slot is None:
                decision, slot = self._decide(request)
            if decision.answer is Answer.POSTPONE:
                time.sleep(SLOT_POLL_S)
            elif decision.machine is None or slot is None:
                return None
            else:
                try:
                    if placed := self._connect(decision.machine, slot, lambda: builder):
                        return placed[1]
                except StockOnly as reason:
                    self._disabled[decision.machine] = reason.one_line

    # Names

    def _name(self, machine: Machine) -> str:
        return machine.uri.render(self._services.host.release)

    def _stem(self, machine: Machine) -> str:
        return machine.uri.lock_stem(self._services.host.release)
