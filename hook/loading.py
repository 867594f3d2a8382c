"""Everything that may be needed once a build is accepted, loaded at once.

Modules are loaded when they are first needed, because Nix waits for the first reply; but an upgrade may have removed or
replaced them by then.  So nothing is promised before all of them are here.  That none is missing in the list is tested
in test_upgrade.py, by a whole session after the installation was removed.
"""

from hook.errors import StockOnly

MODULES = (
    *("hook.build", "hook.cipher", "hook.configurations", "hook.hostkey", "hook.ownstore", "hook.program"),
    *("hook.record", "hook.scratch", "hook.sharing", "hook.unixsocket"),
    *("hook.protocol.lists", "hook.protocol.loglines", "hook.protocol.options", "hook.protocol.serve"),
    *("hook.protocol.worker", "hook.store.content", "hook.store.database", "hook.store.optimise"),
    *("hook.store.pathlocks", "atexit", "base64", "ctypes", "difflib", "encodings.ascii", "fcntl", "hashlib"),
    *("ipaddress", "json", "re", "shlex", "shutil", "tempfile", "termios", "tomllib", "traceback"),
)

_loaded = False


def load() -> None:
    """Load what is not loaded yet; StockOnly if that is not possible."""
    global _loaded  # noqa: PLW0603 - modules are global
    if not _loaded:
        try:
            for name in MODULES:
                __import__(name)
        except Exception as error:  # noqa: BLE001 - half of a module may fail in any way
            raise StockOnly(f"nix-ferry is not installed as a whole: {type(error).__name__}: {error}") from None
        _loaded = True
