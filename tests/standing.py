"""Where the broker listens that is for the tests themselves, and for all that they start as they are."""

from pathlib import Path

from hook.standing import lock_path, socket_path, standing_of


def standing() -> str:
    """Where we stand."""
    name = standing_of(0)
    assert name is not None
    return name


def broker_socket(directory: Path) -> Path:
    return Path(socket_path(str(directory), standing()))


def broker_lock(directory: Path) -> Path:
    return Path(lock_path(str(directory), standing()))
