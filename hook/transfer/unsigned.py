"""What a build reads that a machine takes only from somebody it trusts, as far as that can be known here.

That is every path whose content does not follow from its name and that nobody has signed.  Whose signatures the machine
accepts is known only there.  Found before Nix says what the inputs are, from the derivation.  Tested in
test_unsigned.py.
"""

from collections.abc import Iterator
from contextlib import suppress

from hook.errors import FerryError
from hook.store.local import LocalStore
from hook.values.derivation import Derivation


def unsigned_inputs(store: LocalStore, derivation: Derivation) -> list[str]:
    """Those in the closure of what `derivation` reads, in the order of their paths."""
    inputs = store.database.valid_among(_inputs(store, derivation))
    infos = store.database.infos(sorted(store.database.closure(inputs)))
    return [info.path for info in infos if not (info.ca or info.signatures)]


def _inputs(store: LocalStore, derivation: Derivation) -> Iterator[str]:
    yield from derivation.input_srcs
    for drv_path, names in derivation.input_drvs:
        # Of one that cannot be read, nothing is known; Nix says later what was meant.
        with suppress(FerryError):
            for name, output in store.read_derivation(drv_path).outputs:
                if name in names and output.path:
                    yield output.path
