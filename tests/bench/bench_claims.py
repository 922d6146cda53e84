"""How soon a worker claims what another process has started, by the way in which it hears of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

import pytest

from flexiroaster.config import Settings, load_settings
from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.installation import Installation, open_installation
from tests.bench.conftest import chain
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
ROUNDS = 60


@pytest.fixture(params=["redis", "postgresql", "sqlite"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Over Redis, over LISTEN and NOTIFY, and with SQLite's poll."""
    embedded = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'bench.db'}" if embedded else request.getfixturevalue("postgres_url")
    redis = request.getfixturevalue("redis_url") if request.param == "redis" else ""
    return load_settings(database_url=url, redis_url=redis, artifacts_url=str(tmp_path / "artifacts"))


@pytest.fixture
def starter(settings: Settings, tmp_path: Path) -> Iterator[Installation]:
    """A process that starts executions and drives none; a worker runs beside it."""
    variables = {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "ARTIFACTS_URL": settings.artifacts_url,
        "PYTHON_MODULES": '["tests.bench.functions"]',
        "PYTHONPATH": str(ROOT),
    }
    log = tmp_path / "worker.log"
    with log.open("wb") as file:
        worker = subprocess.Popen(
            [sys.executable, "-m", "flexiroaster", "worker"], env={**os.environ, **variables}, stderr=file
        )
    try:
        with open_installation(settings.model_copy(update={"python_modules": ("tests.bench.functions",)})) as opened:
            eventually(lambda: b"Working;" in log.read_bytes(), 60)
            yield opened
    finally:
        worker.terminate()
        worker.wait(30)


def test_claim_by_another_process(benchmark, starter: Installation) -> None:
    revision = pipelines.save(starter, chain(1))
    started: list[str] = []

    def start() -> None:
        started.append(executions.start(starter, revision, drive=False))
        eventually(lambda: executions.wait(starter, started[-1], 0.0).status == "completed", 30)
        time.sleep(0.3 + 0.007 * (len(started) % 10))  # no start finds the worker still awake from the one before

    benchmark.pedantic(start, rounds=ROUNDS, warmup_rounds=5)
    waits = sorted(1000 * claimed_after(starter, execution_id) for execution_id in started[5:])
    benchmark.extra_info.update(p50=median(waits), p95=quantiles(waits, n=20)[-1])
    print(f"p50 {median(waits):.1f} ms, p95 {quantiles(waits, n=20)[-1]:.1f} ms, worst {waits[-1]:.1f} ms")


def claimed_after(installation: Installation, execution_id: str) -> float:
    """Seconds from the creation, before its commit, to the start, after the claim was committed and read back."""
    at = {event.type: event.at for event in executions.events(installation, execution_id)}
    return (at["execution.started"] - at["execution.created"]).total_seconds()
