"""What `make` installs where it is missing: the script that looks, against programs that say what the test wants."""

import subprocess
from pathlib import Path

import pytest

from tests import REPOSITORY

PACKAGES = REPOSITORY / ".ci/packages"


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("probe", ["program", "{}/file", "header:Python.h", "python:module"])
def test_what_is_missing_is_named_where_it_cannot_be_installed(tmp_path: Path, probe: str, there: bool) -> None:
    """A header of Python is no part of what can be imported."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase "$2" in *print*) echo {tmp_path} ;; *) exit {int(not there)} ;; esac\n')
    python.chmod(0o755)
    if there:
        for name in ("program", "file", "Python.h"):
            (tmp_path / name).touch(0o755)
    command = ["/bin/sh", PACKAGES, f"{probe.format(tmp_path)}=a-package"]
    environ = {"PATH": str(tmp_path), "PYTHON": str(python)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == ((0, "") if there else (1, "please install: a-package\n"))
