"""Build hook._native: the C sources beside this file, seen by Python through cdef.h."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
MODULES = [
    *("digest", "dirs", "dump", "input", "listing", "loglines", "nar", "process", "restore", "wire", "xattrs"),
    "shim/standing",
]

ffibuilder = FFI()
ffibuilder.cdef((HERE / "cdef.h").read_text())
ffibuilder.set_source(
    "hook._native",
    """
    #include "dump.h"
    #include "loglines.h"
    #include "nar.h"
    #include "process.h"
    #include "restore.h"
    #include "shim/standing.h"
    #include "wire.h"
    """,
    # Relative to the project's root, where setuptools runs: absolute paths would end up in the sdist.
    sources=[f"native/{name}.c" for name in MODULES],
    depends=[str(path.relative_to(HERE.parent)) for path in sorted(HERE.rglob("*.h"))],
    include_dirs=["native"],
    libraries=["crypto"],
    define_macros=[("_GNU_SOURCE", None)],
    extra_compile_args=["-std=c11", "-fvisibility=hidden", "-pthread"],
    extra_link_args=["-pthread"],
)
