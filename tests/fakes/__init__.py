"""Scripted stand-ins for the other ends of our pipes."""

import sys
from pathlib import Path

DAEMON = (sys.executable, str(Path(__file__).parent))
"""Runs daemon.py wherever it is started, and whatever is in its environment; its behaviour is to follow."""

DAEMON_IN_URI = "%20".join(DAEMON)
