"""Tests of nix-ferry; a folder tests the one of its name in hook/."""

from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
VECTORS = REPOSITORY / "tests" / "vectors"
