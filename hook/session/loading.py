"""Everything that may be needed once a build is accepted, loaded at once.

Modules are loaded when they are first needed, because Nix waits for the first reply; but an upgrade may have removed or
replaced them by then.  So nothing is promised before all of them are here.  That none is missing in the lists is tested
in test_upgrade.py, by a whole session after the installation was removed.
"""

from collections.abc import Iterable

from hook.errors import StockOnly

FOR_A_BUILD = (
    *(
        "hook.machines.backlog",
        "hook.session.accepted",
        "hook.session.build",
        "hook.remote.hostkey",
        "hook.remote.ownstore",
        "hook.front.program",
        "hook.remote.proof",
        "hook.session.record",
    ),
    *("hook.scratch", "hook.remote.unixsocket", "hook.transfer.unsigned"),
    *("hook.protocol.lists", "hook.protocol.loglines", "hook.protocol.options", "hook.protocol.serve"),
    *("hook.protocol.worker", "hook.store.content", "hook.store.database", "hook.store.optimise"),
    *("hook.store.pathlocks", "hook.store.remove", "atexit", "base64", "encodings.ascii", "fcntl", "hashlib", "json"),
    *("random", "re", "shlex", "shutil", "tempfile", "termios"),
)
"""What a build may need after its accept."""

FOR_OTHERS = (
    *("hook.remote.cipher", "hook.remote.configurations", "hook.broker.log", "hook.remote.sharing"),
    *("hook.toml", "ctypes", "difflib", "ipaddress", "traceback"),
)
"""What only a process may need that serves further hooks, as well."""

PROGRAMS = ("hook.broker.main", "hook.broker.standalone")
"""What the shim starts: one of them is running when a build is to be accepted."""

_loaded: set[bool] = set()


def load_all() -> None:
    """See whether builds have all that they need, in a process that serves none; StockOnly if not."""
    _load(PROGRAMS)
    load(lasting=True)


def load(*, lasting: bool) -> None:
    """Load what is not loaded yet, for further hooks if `lasting`; StockOnly if that is not possible."""
    if lasting in _loaded:
        return
    _load(FOR_A_BUILD + FOR_OTHERS * lasting)
    _loaded.add(lasting)


def _load(names: Iterable[str]) -> None:
    try:
        for name in names:
            __import__(name)
    except Exception as error:  # noqa: BLE001 - half of a module may fail in any way
        raise StockOnly(f"nix-ferry is not installed as a whole: {type(error).__name__}: {error}") from None
