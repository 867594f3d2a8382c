"""The host that tests of install and uninstall change."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hook.cli import daemon
from hook.cli.install import where as place
from tests.cli.install.scripted import PROGRAM, Place


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    host = Place(tmp_path)
    for name, value in host.environ.items():
        monkeypatch.setenv(name, value)
    for name in ("NIX_CONFIG", "NIX_REMOTE", "NIX_USER_CONF_FILES", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", [str(PROGRAM)])
    monkeypatch.setattr(daemon, "SYSTEMD", str(tmp_path / "run"))
    monkeypatch.setattr(place, "DROP_IN", str(host.drop_in))
    monkeypatch.setattr(place, "SERVICE_FILE", str(host.service))
    monkeypatch.setattr(place, "LIBEXEC", str(host.hook.parent))
    # Whoever owns this checkout.
    monkeypatch.setattr(place, "changeable", lambda *programs: None)
    # Whatever else runs on the machine of the tests, this is our daemon's.
    monkeypatch.setattr(daemon, "environment", dict)
    return host
