"""One build on one connected machine: inputs there, the build, outputs here.

The order of the steps is the stock hook's, see the build-hook protocol, section 8.  Raises BuildFailed when the
derivation itself fails, MachineError when another machine may do better.  Tested in test_session.py and test_build.py.
"""

from collections.abc import Callable

from hook.errors import BuildFailed, MachineError, RemoteError
from hook.front import Job
from hook.inputs import Inputs
from hook.log import Log
from hook.outputs import outputs_of
from hook.protocol.building import BuildResult
from hook.protocol.worker import WorkerClient
from hook.remote import Remote
from hook.services import Services
from hook.store.derivation import Derivation, OutputKind
from hook.trouble import Trouble, is_disk_full, trouble_of
from hook.uploads import Uploads


class Builder:
    """Carries out one accepted build on whichever machine it is given; StockOnly if it is one for the stock hook."""

    def __init__(self, drv_path: str, derivation: Derivation, services: Services, uploads: Uploads, log: Log) -> None:
        self._drv_path = drv_path
        self._derivation = derivation
        self._services = services
        self._inputs = Inputs(services, uploads, log)
        self._outputs = outputs_of(drv_path, derivation, services, log)
        self._verbosity = log.verbosity

    def check_machine(self, remote: Remote) -> None:
        """MachineError if `remote` cannot build such a derivation."""
        self._outputs.check_machine(remote)

    def run(self, remote: Remote, job: Job, built: Callable[[], object]) -> None:
        """Build every output that is not valid here; calls `built` when the machine is free for another build."""
        if remote.client.log_on_stderr:
            remote.stream.copy_stderr(self._services.caller.build_log_fd)
        substitute = self._services.settings.flag("substitute", True)
        remote.client.set_limits(self._services.limits, self._verbosity, substitute)
        self._inputs.upload(remote, job.inputs)
        result = self._build(remote, job)
        built()
        self._outputs.fetch(remote, job.wanted, result)

    def _build(self, remote: Remote, job: Job) -> BuildResult:
        client, derivation = remote.client, self._derivation
        input_addressed = derivation.kind is OutputKind.INPUT_ADDRESSED
        try:
            if input_addressed and isinstance(client, WorkerClient) and client.trusted is False:
                # It takes nobody's word for what belongs at such a path, but computes it from the whole derivation.
                self._inputs.upload_derivation(remote, self._drv_path)
                with remote.stream.patience(None):
                    result = client.build_paths_with_results(self._drv_path)
            else:
                inputs = job.inputs if derivation.input_drvs else derivation.input_srcs
                # A build may be silent for hours; ssh notices if the machine is gone.
                with remote.stream.patience(None):
                    result = client.build_derivation(self._drv_path, derivation, inputs)
        except RemoteError as error:
            raise MachineError(f"it refused the build: {error}", trouble_of(str(error))) from None
        client.settle_log()
        # The log and messages take different ways: a failure must not be shown before its last words.
        self._services.caller.settle_log()
        if not result.ok:
            if is_disk_full(result.message):
                raise MachineError(f"{Trouble.DISK_FULL.words}: {result.message}", Trouble.DISK_FULL)
            raise BuildFailed(result.message)
        return result
