"""nix-ferry as its users install it: its wheel and those it needs, unpacked, and the scripts of its entry points.

Built from a copy of the sources, so that neither leftovers of earlier builds get in nor new ones get out.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import distributions
from pathlib import Path

from tests import REPOSITORY
from tests.lab.host import Host

SOURCES = REPOSITORY
PREFIX = "/opt/nix-ferry"
HOOK = f"{PREFIX}/bin/nix-ferry-hook"
OUTSIDE = "/usr/local/libexec/nix-ferry"
"""Where `nix-ferry install` puts the hook."""

NOT_SOURCES = (".*", "__pycache__", "bench", "build", "dist", "tests", "*.egg-info", "*.so")

SCRIPT = """\
#!/usr/bin/python3
import sys

sys.path[0] = "{prefix}/lib"
from {module} import {function}

sys.exit({function}())
"""


def build(directory: Path) -> Path:
    """Build the wheel below `directory`, if it is not there, and return the tree to be installed as PREFIX."""
    finished = directory / "finished"
    if finished.exists():
        return finished
    copy, wheels, tree = directory / "sources", directory / "wheels", directory / "tree"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns(*NOT_SOURCES))
    pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", "wheel"]
    subprocess.run([*pip, "--wheel-dir", str(wheels), str(copy)], check=True)
    # What is compiled for one Python only, cffi's backend, hosts have from Debian.
    for wheel in (*wheels.glob("nix_ferry-*.whl"), *wheels.glob("*-py3-none-any.whl")):
        shutil.unpack_archive(wheel, tree / "lib", "zip")
    (tree / "bin").mkdir()
    (installed,) = distributions(name="nix-ferry", path=[str(tree / "lib")])
    for entry in installed.entry_points.select(group="console_scripts"):
        script = tree / "bin" / entry.name
        script.write_text(SCRIPT.format(prefix=PREFIX, module=entry.module, function=entry.attr))
        script.chmod(0o755)
    for program in tree.glob("lib/*.data/scripts/*"):
        program.rename(tree / "bin" / program.name).chmod(0o755)
    for shared in tree.glob("lib/nix_ferry-*.data/data/share"):
        shared.rename(tree / "share")
    return tree.rename(finished)


def install(tree: Path, host: Host) -> None:
    """Copy a built tree into `host`, whose Python then finds the hook's modules compiled."""
    shutil.copytree(tree, host.path(PREFIX))
    host.run(["python3", "-m", "compileall", "-q", f"{PREFIX}/lib"])


def file_of(module: str) -> str:
    """Where a module is that is installed in a host."""
    return f"{PREFIX}/lib/{module.replace('.', '/')}.py"


@contextmanager
def altered(host: Host, module: str, **constants: float) -> Iterator[None]:
    """Constants of a module have other values meanwhile, for whatever starts from now on."""
    path = file_of(module)
    before = after = host.read_file(path)
    for name, value in constants.items():
        after, count = re.subn(rf"(?m)^{name} = .*", f"{name} = {value}", after)
        assert count == 1, name
    _replace(host, path, after)
    try:
        yield
    finally:
        _replace(host, path, before)


def _replace(host: Host, path: str, text: str) -> None:
    host.write_file(path, text)
    # Compiled within the same second, it could be taken for this one's.
    host.run(["sh", "-c", 'rm -f "${1%/*}/__pycache__/$(basename "$1" .py)".*', "sh", path])


EVER_S = 3600.0
LASTING = {
    "hook.remote.configurations": {"HOLDS_S": EVER_S, "TOGETHER_S": EVER_S, "PATIENCE_S": EVER_S},
    "hook.remote.pool": {"IDLE_S": EVER_S},
    "hook.remote.connection": {"LONGEST_S": EVER_S, "RENEW_S": EVER_S, "RENEW_LOGIN_S": EVER_S},
    "hook.remote.sharing": {"JOIN_S": EVER_S},
}


@contextmanager
def lasting(host: Host) -> Iterator[None]:
    """No connection is too old to be used or joined, however slow this machine is."""
    with ExitStack() as held:
        for module, constants in LASTING.items():
            held.enter_context(altered(host, module, **constants))
        yield
