"""What all of these tests need of Redis: that it stays however busy the machine is."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer may take as long as `redis_socket_timeout`, not a second only."""
    monkeypatch.setattr("flexiroaster.coordination.redis.PROBE_TIMEOUT", 60.0)
