"""Fixtures of what decides about a conversation."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hook.machines import queue as slotqueue
from hook.remote import configurations, proof
from hook.remote import ssh as transport
from tests.session.desk import HOUR_S, Desk


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(slotqueue, "LOOK_S", 0.005)
    # However slow this host is.
    monkeypatch.setattr(proof, "ANSWER_S", HOUR_S)
    monkeypatch.setattr(configurations, "PATIENCE_S", HOUR_S)
    monkeypatch.setattr(transport, "RELEASE_TIMEOUT_S", HOUR_S)
    desk = Desk(tmp_path)
    yield desk
    desk.close()
