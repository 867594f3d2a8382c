"""One build on one connected machine: inputs there, the build, outputs here.

The order of the steps is the stock hook's; but what does not depend on the answer to something else is asked together
with it, so that a build whose inputs are there takes one round trip.  Raises BuildFailed when the derivation itself
fails, MachineError when another machine may do better.

Source: docs/protocols/build-hook.md, "What the stock hook does".  Tested in test_session.py and test_build.py.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from hook.errors import BuildFailed, InputsDoubted, MachineError, NotTrusted, RemoteError, Trouble
from hook.front.log import Log
from hook.front.request import Job
from hook.protocol.building import BuildResult, BuildStatus
from hook.protocol.pipeline import Answer
from hook.protocol.worker import WorkerClient
from hook.remote.connection import Remote
from hook.remote.diagnosis import NOT_PRIVILEGED, is_disk_full, trouble_of
from hook.remote.proof import soon
from hook.remote.watch import Watch
from hook.session.services import Services
from hook.transfer.claims import Uploads
from hook.transfer.copier import LocalEnd
from hook.transfer.inputs import Inputs, missing_there
from hook.transfer.meter import Meter
from hook.transfer.outputs import Ahead, outputs_of
from hook.transfer.unsigned import unsigned_inputs
from hook.values.derivation import Derivation, OutputKind
from hook.values.release import Release

KEPT: Release = (2, 30)
"""From here on stock says where the directory of a failed build is."""

WITHOUT_INPUTS = (BuildStatus.MISC_FAILURE, BuildStatus.DEPENDENCY_FAILED)
"""How builds end whose inputs are not there; few end so whose builder ran."""

LONG_S = 10.0
"""What took longer did not end for want of an input, even if another build has brought one meanwhile."""


@dataclass(frozen=True, slots=True)
class _Doubt:
    """Whether a machine that failed had all inputs: it is asked before the build ends with `failure`.

    `uploads` is how many had ended when the build began there; None if those that came later do not matter.
    """

    machine: str
    uploads: int | None
    failure: BuildFailed


@dataclass(frozen=True, slots=True)
class Built:
    """A build that is over on a machine, which is free for another one; what came of it is still there."""

    result: BuildResult
    ahead: Ahead
    """What was asked about outputs."""

    @property
    def is_new(self) -> bool:
        """Whether it was built just now: it may have failed, or have had the outputs already."""
        return self.result.status == BuildStatus.BUILT


class Builder:
    """Carries out one build on whichever machine it is given; StockOnly if it is one for the stock hook."""

    def __init__(
        self,
        drv_path: str,
        derivation: Derivation,
        services: Services,
        uploads: Uploads,
        log: Log,
        meter: Meter,
    ) -> None:
        self._drv_path = drv_path
        self._derivation = derivation
        self._services = services
        self._uploads = uploads
        here = LocalEnd(services.store, services.caller, log, meter, services.host.release)
        self._inputs = Inputs(here, uploads, services.slots, substitute=services.machines_substitute)
        self._outputs = outputs_of(drv_path, derivation, here, services.settings)
        self._log = log
        self._doubted: set[str] = set()
        """Machines by whose failure the inputs there were doubted."""
        self._doubt: _Doubt | None = None

    def check_machine(self, remote: Remote) -> None:
        """MachineError if `remote` cannot build such a derivation."""
        self._outputs.check_machine(remote)

    def needs_trust(self, distrust: str) -> bool:
        """Whether a machine of which `distrust` is known may refuse it."""
        if NOT_PRIVILEGED in distrust and self._derivation.kind is OutputKind.INPUT_ADDRESSED:
            return True
        return bool(self._unsigned)

    def check_trust(self, remote: Remote, distrust: str) -> None:
        """NotTrusted if `remote`, of which `distrust` is known, would refuse it or an input that it lacks."""
        # Found before: that is our own work, and takes none of the machine's time.
        unsigned = self._unsigned
        try:
            with soon(remote):
                missing = sorted(missing_there(remote, unsigned, substitute=False))
        except RemoteError as error:
            raise MachineError(f"it does not say what it has: {error}", trouble_of(str(error))) from None
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise NotTrusted(f"{distrust}, and nobody has signed the input '{missing[0]}'{more}")
        if NOT_PRIVILEGED in distrust and self._derivation.kind is OutputKind.INPUT_ADDRESSED:
            raise NotTrusted(distrust)

    @cached_property
    def _unsigned(self) -> list[str]:
        return unsigned_inputs(self._services.store, self._derivation)

    def bring_inputs(self, remote: Remote, job: Job, before: Callable[[], object]) -> None:
        """Make the machine ready for the build; calls `before` if something must be copied there."""
        if remote.client.log_on_stderr:
            remote.stream.copy_stderr(self._services.caller.build_log_fd)
        if not remote.route.has_settings:
            substitute = self._services.settings.flag("substitute", True)
            remote.client.set_limits(self._services.limits, self._log.verbosity, substitute)
        self._check_doubt(remote, job)
        self._inputs.upload(remote, job.inputs, before)
        if self._untrusting(remote) is not None:
            self._inputs.upload_derivation(remote, self._drv_path, before)

    def build(self, remote: Remote, job: Job) -> Built:
        """Have it built there, or fail: `fetched` says which.

        InputsDoubted, at most once for each machine: to be made ready and built again over a new connection.
        """
        began, uploads = time.monotonic(), self._uploads.ended(remote.name)
        building = self._start(remote, job)
        ahead = self._outputs.ask_ahead(remote)
        try:
            # A build may be silent for hours; ssh notices if the machine is gone.
            with self._limited(remote), remote.stream.patience(None):
                result = building.get()
        except RemoteError as error:
            raise MachineError(f"it refused the build: {error}", trouble_of(str(error))) from None
        full = is_disk_full(result.message)
        if result.status in WITHOUT_INPUTS and not full and remote.name not in self._doubted:
            self._doubted.add(remote.name)
            was_long = time.monotonic() - began > LONG_S
            self._doubt = _Doubt(remote.name, None if was_long else uploads, BuildFailed(result.message))
            raise InputsDoubted(result.message)
        if full:
            raise MachineError(f"{Trouble.DISK_FULL.words}: {result.message}", Trouble.DISK_FULL)
        return Built(result, ahead)

    @contextmanager
    def fetched(self, remote: Remote, job: Job, built: Built) -> Iterator[None]:
        """All outputs are here in the block, and valid after it; BuildFailed, before it, if there are none."""
        log_settled = remote.client.settle_log()
        if built.result.ok:
            with self._outputs.fetched(remote, job.wanted, built.result, built.ahead):
                yield
        log_settled.get()
        if not built.result.ok:
            if built.ahead.infos:
                # Nix remembers for an hour that an output was not there, and would take it for invalid where another
                # connection has built it by then: as an input it might be replaced under the hands of its users.
                remote.retire()
            # The log and messages take different ways: a failure must not be shown before its last words.
            self._services.caller.settle_log()
            self._say_what_was_kept()
            raise BuildFailed(built.result.message)

    def _start(self, remote: Remote, job: Job) -> Answer[BuildResult]:
        if untrusting := self._untrusting(remote):
            return untrusting.build_paths_with_results(self._drv_path)
        inputs = job.inputs if self._derivation.input_drvs else self._derivation.input_srcs
        return remote.client.build_derivation(self._drv_path, self._derivation, inputs)

    def _untrusting(self, remote: Remote) -> WorkerClient | None:
        """The client of a machine that takes nobody's word for what belongs at an input-addressed path.

        It computes that itself, from the whole derivation.
        """
        client, input_addressed = remote.client, self._derivation.kind is OutputKind.INPUT_ADDRESSED
        return client if input_addressed and isinstance(client, WorkerClient) and client.trusted is False else None

    def _check_doubt(self, remote: Remote, job: Job) -> None:
        """Have a machine whose inputs are in doubt say what it has; BuildFailed if it did not fail for want of one."""
        doubt, self._doubt = self._doubt, None
        if doubt is None or doubt.machine != remote.name:
            return
        remote.doubt()
        if missing_there(remote, job.inputs, substitute=False):
            return
        # What was missing may have come with another build meanwhile.
        if doubt.uploads is None or doubt.uploads == self._uploads.ended(remote.name):
            self._say_what_was_kept()
            raise doubt.failure

    def _say_what_was_kept(self) -> None:
        """Stock's words about `--keep-failed` after a failure, on the releases that have any."""
        host = self._services.host
        if not self._services.limits.keep_failed or host.release < KEPT:
            return
        text = "The failed build directory was kept on the remote builder due to `--keep-failed`."
        if self._derivation.system in {host.system, *host.extra_platforms}:
            text += " You can re-run the command with `--builders ''` to disable remote building for this invocation."
        self._log.warning(text)

    @contextmanager
    def _limited(self, remote: Remote) -> Iterator[None]:
        """Ends what is done in the block, and the connection with it, when the build exceeds a limit."""
        stream, name = remote.stream, f"building of '{self._drv_path}'"
        stream.watch = Watch(name, self._services.limits, lambda: self._log.build_log_bytes + stream.bytes_copied)
        try:
            yield
        except BuildFailed:
            # The machine is still building; nothing but the end of the connection stops it.
            remote.retire()
            raise
        finally:
            stream.watch = None
