"""nix-ferry installed in a directory of its own, with the hook outside of it, to be upgraded and broken."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import hook
from tests.fakes.shims import INSTALLED

SOURCES = Path(hook.__file__).parent
SCRIPT = """\
#!{python}
import sys

# An editable install, which the tests run with, would be found where nothing is left here.
sys.meta_path[:] = [finder for finder in sys.meta_path if not finder.__module__.startswith("__editable__")]
sys.path.insert(0, "{lib}")


class Watch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        with open("{imports}", "a") as file:
            print(name, file=file)


sys.meta_path.insert(0, Watch)
from {module} import main

sys.exit(main())
"""


class Installation:
    """`hook` leads to programs, which are of the build `identity` and write down in `imports` what they look for."""

    def __init__(self, root: Path, identity: str) -> None:
        self._lib, self._bin, self._share = root / "lib", root / "bin", root / "share/nix-ferry"
        self.imports = root / "imports"
        self.hook = root / "libexec/nix-ferry-hook"
        self.hook.parent.mkdir(parents=True)
        shutil.copy2(INSTALLED / "nix-ferry-hook", self.hook)
        (self.hook.parent / "programs").symlink_to(self._bin)
        for _ in self.put(identity):
            pass

    def imported(self) -> list[str]:
        return self.imports.read_text().split() if self.imports.exists() else []

    def remove(self) -> Iterator[str]:
        """Take everything away in the order of pip, and stop after each part."""
        for part in (self._bin, self._share, self._lib):
            shutil.rmtree(part)
            yield f"without {part.name}"

    def put(self, identity: str) -> Iterator[str]:
        """Put another build in its place: modules, then data, then programs; stops after each file of a few."""
        modules = sorted(path for path in SOURCES.rglob("*") if path.suffix in (".py", ".so"))
        for number, path in enumerate(modules):
            target = self._lib / "hook" / path.relative_to(SOURCES)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
            if number % (len(modules) // 4) == 0:
                yield f"with {path.name}"
        self._share.mkdir(parents=True)
        (self._share / "identity").write_text(f"{identity}\n")
        yield "with identity"
        self._bin.mkdir()
        for name, module in (("broker", "hook.broker.main"), ("standalone", "hook.broker.standalone")):
            script = self._bin / f"nix-ferry-{name}"
            text = SCRIPT.format(python=sys.executable, lib=self._lib, imports=self.imports, module=module)
            script.write_text(text)
            script.chmod(0o755)
            yield f"with {name}"
