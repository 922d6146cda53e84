"""What a second worker brings, and what Redis costs or saves: the same executions, started elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from flexiroaster.config import load_settings
from flexiroaster.model.execution import LIVE
from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.executions.executions import ExecutionFilter
from flexiroaster.service.installation import Installation, open_installation
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
COUNT = 100
STAGE = {"operation": "python", "function": "tests.bench.functions:wait", "arguments": {"seconds": 0.02}}


def waiting() -> dict[str, Any]:
    """Three stages that wait for something outside, as most stages do: 20 ms each."""
    stages = [{"id": "s0", "type": "transform", "config": STAGE}]
    stages += [{"id": f"s{i}", "type": "transform", "config": STAGE, "dependencies": [f"s{i - 1}"]} for i in (1, 2)]
    return {"id": "waiting", "name": "Waiting", "concurrency": None, "stages": stages}


@contextmanager
def workers(count: int, variables: dict[str, str], folder: Path) -> Iterator[None]:
    """So many worker processes of two stage processes each, ready."""
    with ExitStack() as stack:
        for i in range(count):
            log = folder / f"worker{i}.log"
            process = subprocess.Popen(
                [sys.executable, "-m", "flexiroaster", "worker", "--concurrency", "2"],
                env={**os.environ, **variables},
                stderr=stack.enter_context(log.open("wb")),
            )
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
            eventually(lambda log=log: b"Working;" in log.read_bytes(), 60)
        yield


def rate(installation: Installation) -> float:
    """Executions a second, from the first start to the last end."""
    revision = pipelines.save(installation, waiting())
    live = ExecutionFilter(statuses=tuple(LIVE))
    began = perf_counter()
    for _ in range(COUNT):
        executions.start(installation, revision, drive=False)
    eventually(lambda: executions.count(installation, live) == 0, 300)
    return COUNT / (perf_counter() - began)


@pytest.mark.parametrize("redis", ["with", "without"])
@pytest.mark.parametrize("count", [1, 2])
def test_workers(
    benchmark: Any, request: pytest.FixtureRequest, postgres_url: str, tmp_path: Path, count: int, redis: str
) -> None:
    variables = {
        "DATABASE_URL": postgres_url,
        "REDIS_URL": request.getfixturevalue("redis_url") if redis == "with" else "",
        "ARTIFACTS_URL": str(tmp_path / "artifacts"),
        "PYTHON_MODULES": '["tests.bench.functions"]',
        "PYTHONPATH": str(ROOT),
    }
    settings = load_settings(
        database_url=postgres_url,
        redis_url=variables["REDIS_URL"],
        artifacts_url=variables["ARTIFACTS_URL"],
        python_modules=("tests.bench.functions",),
    )
    with open_installation(settings) as installation:
        _ = installation.signals
        with workers(count, variables, tmp_path):
            rate(installation)  # warm
            rates: list[float] = []
            benchmark.pedantic(lambda: rates.append(rate(installation)), rounds=3)
    benchmark.extra_info["rates"] = rates
    print(f"{count} workers, {redis} Redis: {max(rates):.0f} executions/s")
