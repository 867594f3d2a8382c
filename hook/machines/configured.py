"""What Nix's settings say of this host and its machines.  Tested in test_builders.py and test_schedule.py."""

from hook.config import read_small
from hook.machines.builders import Machine, parse_machines
from hook.machines.schedule import Host
from hook.values.release import release_of
from hook.values.settings import Settings

MOST_MACHINES_BYTES = 16 << 20
"""Of one file of `builders`: a hundred thousand machines."""


def host_of(settings: Settings) -> Host:
    """What this host could build itself."""
    return Host(
        system=settings.text("system"),
        extra_platforms=frozenset(settings.words("extra-platforms")),
        features=frozenset(settings.words("system-features")),
        max_jobs=settings.number("max-jobs", 1),
        release=release_of(settings),
    )


def machines_of(settings: Settings, host: Host) -> tuple[list[Machine], list[str]]:
    """The machines of `builders`, and a warning for every line that cannot be used."""
    return parse_machines(
        settings.text("builders", "@/etc/nix/machines"),
        default_system=host.system,
        release=host.release,
        read_file=_read_file,
    )


def _read_file(path: str) -> str:
    return read_small(path, MOST_MACHINES_BYTES).decode(errors="surrogateescape")
