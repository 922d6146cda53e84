"""Installations to measure: warm, on SQLite (synchronous=FULL, the default) and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flexiroaster.config import load_settings
from flexiroaster.service import pipelines
from flexiroaster.service.executions import executions
from flexiroaster.service.installation import Installation, open_installation


@pytest.fixture(scope="session")
def durable() -> bool:
    return True


def noop_stage(stage_id: str, *dependencies: str) -> dict[str, Any]:
    config = {"operation": "python", "function": "tests.bench.functions:noop"}
    return {"id": stage_id, "type": "transform", "config": config, "dependencies": list(dependencies)}


def chain(length: int) -> dict[str, Any]:
    stages = [noop_stage("s0")] + [noop_stage(f"s{i}", f"s{i - 1}") for i in range(1, length)]
    return {"id": f"chain{length}", "name": f"chain of {length}", "concurrency": None, "stages": stages}


def fan(width: int) -> dict[str, Any]:
    middle = [f"m{i}" for i in range(width)]
    stages = [noop_stage("first"), *(noop_stage(i, "first") for i in middle), noop_stage("last", *middle)]
    return {"id": f"fan{width}", "name": f"1 -> {width} -> 1", "stages": stages}


@pytest.fixture
def installation(database_url: str, tmp_path: Path) -> Iterator[Installation]:
    settings = load_settings(
        database_url=database_url,
        python_modules=("tests.bench.functions",),
        artifacts_url=str(tmp_path / "artifacts"),
    )
    with open_installation(settings) as opened:
        warm = pipelines.save(opened, chain(20))
        for _ in range(3):
            assert run(opened, warm) == "completed"
        yield opened


def run(installation: Installation, revision: pipelines.Revision) -> str:
    return executions.wait(installation, executions.start(installation, revision)).status
