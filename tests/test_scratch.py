"""A directory that nothing is left of."""

import subprocess
import sys
from pathlib import Path

from tests import REPOSITORY


def test_it_is_ours_alone_and_goes_with_us() -> None:
    code = """
import os
from tests import REPOSITORY
from hook.scratch import scratch_directory
made = scratch_directory()
assert made == scratch_directory()
assert os.stat(made).st_mode & 0o777 == 0o700
open(made + "/file", "w").close()
print(made)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert not Path(done.stdout.strip()).exists()
