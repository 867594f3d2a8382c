"""What `nix-ferry uninstall` leaves on a host, and the broker, which it has end.  Tested in test_install.py."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing

from hook.broker.client import RunningBroker, broker_directory, elsewhere
from hook.broker.server import Question
from hook.cli.machine.add import KEY
from hook.config import config_path
from hook.errors import FerryError


def end_broker(environ: Mapping[str, str]) -> str:
    """Have the broker end when its builds are over, without waiting for that; says what becomes of it."""
    try:
        directory = broker_directory(environ)
        others = elsewhere(directory)
        running = RunningBroker.reach(directory)
        if running is None:
            return f"no broker is running{others}"
        with closing(running):
            overview = running.ask(Question.RETIRE)
    except FerryError as error:
        return f"no broker was ended: {error.one_line}"
    count = len(overview["builds"])
    after = "" if not count else " after 1 build" if count == 1 else f" after {count} builds"
    return f"the broker (process {running.pid}) ends{after}, and with it the connections of ssh that it shares{others}"


def remains(environ: Mapping[str, str]) -> Iterator[str]:
    """What stays and whose it is, a line each; removing it is left to the user."""
    try:
        directory = broker_directory(environ)
    except FerryError:
        directory = ""
    if os.path.isdir(directory):
        yield f"{directory}: the broker's log and history, known host keys, machines that are disabled"
    key = os.path.expanduser(KEY)
    for path in (key, f"{key}.pub"):
        if os.path.exists(path):
            yield f"{path}: the key that 'machine add' made; machines have it in authorized_keys"
    if os.path.exists(path := config_path(environ)):
        yield f"{path}: settings of nix-ferry"
    yield "the lines of machines, by which Nix's own hook builds on them, too"
    yield f"{os.path.dirname(os.path.dirname(os.path.realpath(sys.argv[0])))}: the programs, for whoever installed them"
