"""The compiled module and the compiled hook; everything else is in pyproject.toml, which has no place for these."""

import hashlib
import os
import re
from distutils.command.build_scripts import build_scripts
from pathlib import Path

from setuptools import setup  # isort: split, since this is what provides distutils
from setuptools.errors import ExecError

VERSION = re.search(r'__version__ = "(.*)"', Path("hook/__init__.py").read_text())[1]
SHIM = "nix-ferry-hook"
SOURCES = sorted(map(str, Path("native/shim").glob("*.c")))
IDENTITY = Path("build/identity")
"""Tells one build from another: hook/broker/identity.py."""

COMPLETIONS = {
    "share/bash-completion/completions": "nix-ferry",
    "share/fish/vendor_completions.d": "nix-ferry.fish",
    "share/zsh/site-functions": "_nix-ferry",
}
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow"]


class BuildScripts(build_scripts):
    """Scripts as usual, and native/shim as an executable among them."""

    def finalize_options(self) -> None:
        """Add the shim to the scripts to be installed."""
        super().finalize_options()
        self.scripts = [*(self.scripts or []), SHIM]

    def get_source_files(self) -> list[str]:
        """What belongs into a source distribution."""
        return SOURCES

    def run(self) -> None:
        """Compile the shim to where scripts are installed from."""
        self.mkpath(self.build_dir)
        compiler = os.environ.get("CC", "cc")
        options = ["-std=c11", "-D_GNU_SOURCE", "-O2", *WARNINGS]
        command = [compiler, *options, "-o", os.path.join(self.build_dir, SHIM), *SOURCES]
        try:
            # Nix waits for it to be loaded, which goes faster without libraries to find: 1.0 ms instead of 1.2 to 1.8.
            self.spawn([*command, "-static"])
        except ExecError:
            self.spawn(command)


def write_identity() -> None:
    """Write version and hash of all that is installed as code."""
    code = hashlib.sha256()
    for path in sorted([*Path("hook").rglob("*.py"), *Path("native").rglob("*.[ch]"), *Path("native").glob("*.py")]):
        if path.name != "_native.c":
            content = path.read_bytes()
            code.update(f"{path} {len(content)}\n".encode() + content)
    IDENTITY.parent.mkdir(exist_ok=True)
    IDENTITY.write_text(f"{VERSION}-{code.hexdigest()[:16]}\n")


write_identity()
setup(
    cffi_modules=["native/build.py:ffibuilder"],
    data_files=[
        *((f"share/man/man{page[-1]}", [page]) for page in sorted(map(str, Path("man").glob("*.[158]")))),
        *((directory, [f"completions/{name}"]) for directory, name in COMPLETIONS.items()),
        ("share/nix-ferry", [str(IDENTITY)]),
    ],
    cmdclass={"build_scripts": BuildScripts},
    # Any entry makes setuptools run build_scripts; the list itself is made above.
    scripts=SOURCES[:1],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
