"""Each module says where its rules are tested, if that is not where everybody looks first."""

import ast
import re
from pathlib import Path

import pytest

from tests import REPOSITORY

HOOK = REPOSITORY / "hook"
TESTS = REPOSITORY / "tests"
MODULES = sorted(path.relative_to(HOOK) for path in HOOK.rglob("*.py") if path.name != "__init__.py")


def homes(module: Path, docstring: str) -> list[str]:
    """The test files of a module: the one of its name in the folder of its room, if there is one, and those named."""
    own = module.with_name(f"test_{module.name}")
    named = re.findall(r"(?:[\w-]+/)*test_\w+\.py", docstring)
    found = [name for name in named if any(str(each).endswith(f"/{name}") for each in TESTS.rglob(Path(name).name))]
    assert found == named, f"there is no {set(named) - set(found)}"
    return [*found, *([str(own)] if (TESTS / own).exists() else [])]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_names_its_tests(module: Path) -> None:
    """Whoever changes a rule must find what holds it."""
    assert homes(module, ast.get_docstring(ast.parse((HOOK / module).read_text())) or "")


def test_a_name_that_is_nobodys_is_noticed() -> None:
    """Files are renamed."""
    assert homes(Path("session/nobody.py"), "Tested in test_rooms.py and session/test_ledger.py.") == [
        "test_rooms.py",
        "session/test_ledger.py",
    ]
    assert homes(Path("session/ledger.py"), "") == ["session/test_ledger.py"]
    assert homes(Path("session/nobody.py"), "") == []
    with pytest.raises(AssertionError):
        homes(Path("session/ledger.py"), "Tested in store/test_ledger.py.")
