"""Fixtures of hosts that tests choose themselves."""

from tests.lab.conftest import fresh

__all__ = ["fresh"]
