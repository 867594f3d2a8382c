"""nix-ferry as its users install it: its wheel and those it needs, unpacked, and the scripts of its entry points.

Built from a copy of the sources, so that neither leftovers of earlier builds get in nor new ones get out.
"""

import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

from tests.lab.host import Host

SOURCES = Path(__file__).parents[2]
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
