"""What SetOptions says: how the daemon is to behave towards one connection.

Source: docs/protocols/worker-protocol.md, "SetOptions".  Decoded in test_worker.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hook.protocol.activity import Verbosity
from hook.protocol.wire import Writer


@dataclass(frozen=True, slots=True)
class Options:
    """The fields with a place of their own, and `others`: settings by name.  The defaults are those of Nix."""

    keep_failed: bool = False
    keep_going: bool = False
    fallback: bool = False
    verbosity: int = Verbosity.INFO
    max_silent_time_s: int = 0
    cores: int = 0
    """0 for as many as there are."""
    substitute: bool = True
    others: Mapping[str, str] = field(default_factory=dict)


def write_options(w: Writer, options: Options) -> None:
    """The arguments of SetOptions."""
    w.flag(options.keep_failed)
    w.flag(options.keep_going)
    w.flag(options.fallback)
    w.u64(options.verbosity)
    w.u64(1)  # maxBuildJobs: 0 would forbid the daemon to build
    w.u64(options.max_silent_time_s)
    w.u64(1)  # obsolete: use the build hook
    w.u64(0)  # verboseBuild, where 0 means yes
    w.u64(0)  # obsolete
    w.u64(0)  # obsolete
    w.u64(options.cores)
    w.flag(options.substitute)
    w.u64(len(options.others))
    for name, value in options.others.items():
        w.string(name)
        w.string(value)
