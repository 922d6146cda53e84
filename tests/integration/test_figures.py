"""Metrics and health for dashboards and orchestrators."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from flexiroaster.config import Settings, load_settings
from flexiroaster.model.event import utc_now
from flexiroaster.service import pipelines
from flexiroaster.service.admin import metrics
from flexiroaster.service.admin.metrics import Metrics, Status
from flexiroaster.service.installation import Installation, open_installation
from flexiroaster.store.tables import executions
from tests.history import made_up
from tests.statements import statements


@pytest.fixture
def installation(settings: Settings) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        yield opened


def add(installation: Installation, status: str, seconds: float | None = None, days: float = 1) -> None:
    row = next(made_up(1, seed=int(utc_now().timestamp() * 1e6)))
    at = utc_now() - timedelta(days=days)
    ended = None if seconds is None else at + timedelta(seconds=seconds)
    with installation.database.write() as connection:
        values = {**row, "status": status, "created_at": at, "started_at": at, "completed_at": ended}
        connection.execute(executions.insert().values(values))


def test_metrics_of_an_empty_installation(installation: Installation) -> None:
    assert metrics.read(installation) == Metrics(0, 0, 0, 0, 0, 0.0, None)


def test_metrics_cover_the_last_30_days(installation: Installation) -> None:
    stage = {"id": "a", "type": "input", "config": {"source": "api"}}
    for name in ("a", "b", "c"):
        pipelines.create(installation, {"id": name, "name": name, "stages": [stage], "is_active": name != "b"})
    pipelines.delete(installation, "c")
    for seconds in (1.5, 2.5):
        add(installation, "completed", seconds)
    add(installation, "failed", 100)
    add(installation, "cancelled", 100)
    add(installation, "running")
    add(installation, "completed", 1000, days=31)
    with statements(installation) as sent:
        found = metrics.read(installation)
    assert len(sent) == 2
    assert found.avg_duration == pytest.approx(2.0, abs=0.001)
    assert found == Metrics(2, 1, 5, 2, 1, 66.67, found.avg_duration)


def test_health_without_redis(installation: Installation) -> None:
    report = metrics.check(installation)
    assert (report.status, report.ready) == (Status.HEALTHY, True)
    assert report.database.latency_ms > 0
    assert report.database.details == {"dialect": installation.database.engine.dialect.name}
    assert report.redis.status is Status.DEGRADED
    assert report.redis.details["fallback_mode"] is True
    assert report.executor.details == {"owner": installation.owner, "started": False, "executions": 0, "failing": {}}


def test_health_with_redis(settings: Settings, redis_url: str) -> None:
    with open_installation(settings.model_copy(update={"redis_url": redis_url})) as installation:
        report = metrics.check(installation)
        assert (report.redis.status, report.redis.details["fallback_mode"]) == (Status.HEALTHY, False)
        assert report.redis.latency_ms > 0


@pytest.mark.parametrize("url", ["postgresql://u:geheim@127.0.0.1:1/x", "sqlite:///no/such/folder/x.db"])
def test_health_without_its_database(url: str, tmp_path: Path) -> None:
    with open_installation(load_settings(database_url=url)) as installation:
        report = metrics.check(installation)
    assert (report.status, report.ready, report.database.status) == (Status.DEGRADED, False, Status.UNHEALTHY)
    assert report.database.details["error"]
    assert "geheim" not in str(report)


def test_health_reports_a_failed_driver(installation: Installation) -> None:
    installation.warm_up()
    assert metrics.check(installation).executor.details["started"] is True
    installation.driver.close()
    report = metrics.check(installation)
    assert (report.status, report.executor.status) == (Status.DEGRADED, Status.UNHEALTHY)
