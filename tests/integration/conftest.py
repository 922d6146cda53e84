"""What all of these tests need: that servers and processes are waited for, however busy the machine is."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of Redis may take as long as `redis_socket_timeout`, not a second only; other limits are as long."""
    monkeypatch.setattr("flexiroaster.coordination.redis.link.PROBE_TIMEOUT", 60.0)
    monkeypatch.setattr("flexiroaster.coordination.bus.redis.PONG_SECONDS", 60.0)
    monkeypatch.setattr("flexiroaster.coordination.bus.database.ANSWER_SECONDS", 60.0)
    monkeypatch.setattr("flexiroaster.workers.local_runner.CLOSE_SECONDS", 60.0)
