"""Bring the outputs of a build here, and make them valid.

The paths of most outputs are known before the build.  Those of floating content-addressed ones come with its result: a
machine may name any path of the right name that the content it sends hashes to, and no other.  The rules for what is
fetched are the stock hook's.

Source: docs/protocols/build-hook.md, "What the stock hook does".  Tested in test_outputs.py.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from hook.errors import MachineError, RemoteError, StockOnly, StoreError
from hook.front.log import step
from hook.protocol.activity import Verbosity
from hook.protocol.building import BuildResult, BuiltPath
from hook.protocol.pipeline import Answer
from hook.remote.connection import Remote
from hook.store.realisations import Realisations
from hook.transfer.copier import Copier, LocalEnd
from hook.values.closure import references_first
from hook.values.derivation import Derivation, OutputKind, resolved_hash
from hook.values.info import PathInfo, check_signatures
from hook.values.path import check_store_path, name_of
from hook.values.realisation import OutputId, Realisation, parse_realisation
from hook.values.settings import Settings


@dataclass(frozen=True, slots=True)
class Ahead:
    """What was asked about outputs together with their build."""

    infos: dict[str, Answer[PathInfo | None]] = field(default_factory=dict)
    nars: dict[str, Answer[None]] = field(default_factory=dict)


class Outputs:
    """Outputs whose paths the derivation knows."""

    def __init__(self, derivation: Derivation, here: LocalEnd) -> None:
        self._paths = {output.path for _, output in derivation.outputs}
        self._here = here
        self._store = here.store
        self._log = here.log

    def check_machine(self, remote: Remote) -> None:
        """MachineError if outputs of this kind cannot come from this machine."""

    def ask_ahead(self, remote: Remote) -> Ahead:
        """Ask for outputs that `remote` was just told to build, as far as that can be known before it has built them.

        If it does not build them, the connection is not to be used again.  Of several, it does not say yet which refer
        to which, and so not in what order they are to come.
        """
        missing = sorted(self._paths - self._store.database.valid_among(self._paths))
        ahead = Ahead({path: remote.client.query_path_info(path) for path in missing})
        if len(missing) == 1 and remote.client.asks_ahead:
            ahead.nars[missing[0]] = remote.client.nar_from_path(missing[0])
        return ahead

    @contextmanager
    def fetched(self, remote: Remote, wanted: AbstractSet[str], result: BuildResult, ahead: Ahead) -> Iterator[None]:
        """Every output, `wanted` or not, is here in the block as `remote` has built it, and valid after it."""
        imported: list[PathInfo] = []
        if missing := ahead.infos.keys() - self._store.database.valid_among(ahead.infos.keys()):
            imported = self._copy(remote, missing, ahead)
        yield
        if imported:
            self._store.commit(imported)

    def _copy(self, remote: Remote, paths: AbstractSet[str], ahead: Ahead) -> list[PathInfo]:
        """What is here now, to be made valid in one transaction."""
        with step(self._log, f"copying outputs from '{remote.name}'"):
            try:
                # All are asked for before the first is waited for.
                asked = {path: ahead.infos.get(path) or remote.client.query_path_info(path) for path in sorted(paths)}
                infos = self._in_order([self._info(path, answer.get()) for path, answer in asked.items()])
                remote.known.add(paths)
                return Copier(remote, self._here).download(infos, ahead.nars)
            except RemoteError as error:
                raise MachineError(f"cannot copy its outputs: {error}") from None

    def _in_order(self, infos: list[PathInfo]) -> list[PathInfo]:
        """References first; MachineError if there is no such order, or if they refer to what nobody has."""
        by_path = {info.path: info for info in infos}
        try:
            order = references_first(by_path, ((info.path, info.references) for info in infos))
        except StoreError as error:
            raise MachineError(f"what it said about its outputs cannot be used: {error}") from None
        needed = {reference for info in infos for reference in info.references} - by_path.keys()
        if wild := needed - self._store.database.valid_among(needed):
            raise MachineError(f"its outputs refer to '{min(wild)}', which is not valid here")
        return [by_path[path] for path in order]

    def _info(self, path: str, info: PathInfo | None) -> PathInfo:
        if info is None:
            raise MachineError(f"'{path}' is not valid there after its build")
        # Only paths built by this very store are its last word about them.
        return replace(info, ultimate=False)


class FloatingOutputs(Outputs):
    """Content-addressed outputs of the derivation at `drv_path`, whose paths are known only after the build.

    StockOnly if the local store does not keep realisations in a way that is known here.
    """

    def __init__(self, drv_path: str, derivation: Derivation, here: LocalEnd) -> None:
        super().__init__(derivation, here)
        self._drv_name = name_of(drv_path).removesuffix(".drv")
        self._drv_hash = f"sha256:{resolved_hash(derivation).hex()}"
        self._realisations = Realisations(here.store.database, drv_path, self._drv_hash)

    def check_machine(self, remote: Remote) -> None:
        """MachineError if the machine's protocol is too old to say what was built."""
        if not remote.client.reports_outputs:
            raise MachineError("its protocol is too old for content-addressed derivations (Nix 2.4 or newer is needed)")

    def ask_ahead(self, remote: Remote) -> Ahead:
        """Nothing: the paths are not known yet."""
        return Ahead()

    @contextmanager
    def fetched(self, remote: Remote, wanted: AbstractSet[str], result: BuildResult, ahead: Ahead) -> Iterator[None]:
        """Those `wanted` are here in the block that have no realisation yet, and valid and registered after it."""
        built = [self._realisation(name, result) for name in sorted(wanted - self._realisations.known())]
        if not built:
            yield
            return
        paths = {realisation.out_path for realisation in built}
        # The parent has locked the outputs by name; it cannot hold the locks of paths that nobody knew.
        with self._store.locked(paths, self._announce_wait, self._here.caller.pause):
            imported = self._copy(remote, paths - self._store.database.valid_among(paths), ahead)
            yield
            if imported:
                self._store.commit(imported)
            self._realisations.register(built)

    def _realisation(self, name: str, result: BuildResult) -> Realisation:
        said = result.realisations.get(name)
        if said is None:
            raise MachineError(f"it did not say where output '{name}' is")
        try:
            if as_path := isinstance(said, BuiltPath):
                path, signatures = check_store_path(said.path, self._store.store_dir), said.signatures
            else:
                reported = parse_realisation(said, self._store.store_dir)
                path, signatures = reported.out_path, reported.signatures
            check_signatures(path, signatures)
        except StoreError as error:
            raise MachineError(f"what it said about output '{name}' cannot be used: {error}") from None
        # Among others, no output may pass for a derivation.
        if name_of(path) != (self._drv_name if name == "out" else f"{self._drv_name}-{name}"):
            raise MachineError(f"it said that output '{name}' is '{path}', which is not named like it")
        return Realisation(OutputId(self._drv_hash, name), path, signatures, signs_drv_path=as_path)

    def _info(self, path: str, info: PathInfo | None) -> PathInfo:
        info = super()._info(path, info)
        # Without one, its content could be anything, and its path that of something else.
        if not info.ca:
            raise MachineError(f"'{path}' is not content-addressed there")
        return info

    def _announce_wait(self, real_path: str) -> None:
        self._log.message(Verbosity.NOTICE, f"waiting for lock on '{real_path}'")


def outputs_of(drv_path: str, derivation: Derivation, here: LocalEnd, settings: Settings) -> Outputs:
    """How the outputs of a derivation become valid; StockOnly if they are of a kind that is not handled here."""
    match derivation.kind:
        case OutputKind.INPUT_ADDRESSED | OutputKind.FIXED:
            return Outputs(derivation, here)
        # Nix asks for such builds only with the feature on, and after replacing input derivations by their outputs.
        case OutputKind.FLOATING if "ca-derivations" in settings.words("experimental-features"):
            if not derivation.input_drvs:
                return FloatingOutputs(drv_path, derivation, here)
    raise StockOnly(f"its outputs are {derivation.kind.value}")
