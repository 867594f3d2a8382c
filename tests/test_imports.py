"""What may import what, and how much is loaded before Nix gets its answer."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests import REPOSITORY

HOOK = REPOSITORY / "hook"
MODULES = sorted(path for path in HOOK.rglob("*.py"))

IO_MODULES = {"os", "socket", "subprocess", "time", "pathlib", "select", "fcntl", "tempfile", "shutil"}

LAYERS = [
    {"cli"},
    {"broker"},
    {"session"},
    {"transfer"},
    {"remote"},
    {"machines"},
    {"front"},
    {"protocol", "store"},
    {"values"},
    {"config"},
    {"toml"},
    {"errors"},
    {"recent", "scratch", "_native"},
]
"""From top to bottom; a module imports from its own room or from those in layers below."""

ALSO_PURE = ["machines/builders.py", "machines/schedule.py", "recent.py", "remote/diagnosis.py"]
PURE = [
    *sorted((HOOK / "protocol").glob("*.py")),
    *sorted((HOOK / "values").glob("*.py")),
    *(HOOK / name for name in ALSO_PURE),
]


def imports_of(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it, except for types only."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "hook":
                found |= {f"hook.{alias.name}" for alias in node.names}
    return found - {"hook"}


@pytest.mark.parametrize("path", PURE, ids=lambda path: path.stem)
def test_what_is_pure_touches_nothing(path: Path) -> None:
    """Protocols, values and decisions can be tested, simulated and reused without files, sockets or clocks."""
    assert {name.partition(".")[0] for name in imports_of(path)} & IO_MODULES == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(HOOK)))
def test_imports_point_down_the_map(path: Path) -> None:
    """A reader who starts at the top never has to look up again."""
    level = {name: index for index, names in enumerate(LAYERS) for name in names}
    own = path.relative_to(HOOK).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    assert own in level, "a module has a place on the map"
    for name in imports_of(path):
        package, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if package == "hook" and other != own:
            assert level[other] > level[own], f"{own} imports {name}"


def test_no_module_needs_itself() -> None:
    """What stands in a circle can only be understood all at once."""
    names = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path for path in MODULES}
    waiting = {name: imports_of(path) & names.keys() - {name} for name, path in names.items()}
    while free := [name for name, needed in waiting.items() if not needed]:
        for name in free:
            del waiting[name]
        for needed in waiting.values():
            needed.difference_update(free)
    assert waiting == {}


LATER = {
    "hook._native",
    "hook.session.build",
    "hook.store.nar",
    "hook.transfer.copier",
    "hook.protocol.worker",
    "sqlite3",
    "hashlib",
}
NEVER = {"asyncio", "logging", "argparse", "importlib.metadata", "pathlib", "cffi", "_cffi_backend"}


def modules_after(code: str) -> set[str]:
    command = [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"]
    return set(subprocess.run(command, check=True, capture_output=True, text=True, cwd=HOOK.parent).stdout.split())


def test_little_is_loaded_before_the_answer() -> None:
    """Without a broker Nix waits for every import; what the build itself needs is loaded while ssh connects."""
    # An editable install brings modules of its own into every process.
    loaded = modules_after("import hook.broker.standalone") - modules_after("pass")
    assert loaded & (LATER | NEVER) == set()
    assert len([name for name in loaded if name.startswith("hook")]) <= 67
