"""`python tests/fakes BEHAVIOUR[,…] --stdio`: the scripted daemon."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[2])

from tests.fakes.daemon import Daemon  # noqa: E402 - only now it can be found

Daemon(sys.argv[1]).serve()
