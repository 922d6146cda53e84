"""Fixtures of all integration tests: patience with servers and processes on a busy machine."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Redis take `redis_socket_timeout` to answer instead of a second; other limits are as long."""
    monkeypatch.setattr("flexiroaster.coordination.redis.link.PROBE_TIMEOUT", 60.0)
    monkeypatch.setattr("flexiroaster.coordination.bus.redis.PONG_SECONDS", 60.0)
    monkeypatch.setattr("flexiroaster.coordination.bus.database.ANSWER_SECONDS", 60.0)
    monkeypatch.setattr("flexiroaster.workers.local_runner.CLOSE_SECONDS", 60.0)
