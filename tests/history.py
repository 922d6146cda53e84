"""Made-up executions in the database, without running them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import insert

from flexiroaster.model.execution import TERMINAL, ExecutionStatus
from flexiroaster.service.installation import Installation
from flexiroaster.store.tables import executions

__all__ = ["BEGINNING", "add_executions", "made_up"]

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


def made_up(count: int, *, pipelines: int = 5, seed: int = 1, ties: int = 3) -> Iterator[dict[str, Any]]:
    """Rows of `executions`: some `ties` share each time, some have not started, or have no risk."""
    choose = random.Random(seed)
    states = list(ExecutionStatus)
    for i in range(count):
        created = BEGINNING + timedelta(seconds=i // ties)
        status = choose.choices(states, weights=[1, 1, 1, 60, 20, 2, 15])[0]
        started = None if status is ExecutionStatus.PENDING else created + timedelta(seconds=choose.randrange(60))
        ended = started + timedelta(seconds=choose.randrange(600)) if started and status in TERMINAL else None
        pipeline = f"p{choose.randrange(pipelines)}"
        failed = status is ExecutionStatus.FAILED
        yield {
            "id": f"exec-{choose.getrandbits(64):016x}",
            "pipeline_id": pipeline,
            "pipeline_name": f"Pipeline {pipeline}",
            "revision": 1,
            "status": status,
            "variables": {"day": str(created.date())},
            "triggered_by": choose.choice(["api", "cli", "schedule"]),
            "total_stages": 4,
            "completed_stages": 4 if ended else 1,
            "risk_score": choose.choice([None, round(choose.random(), 1)]),
            "created_at": created,
            "started_at": started,
            "completed_at": ended,
            "error": {"message": f"Stage 'load' failed: 100% of row_{i} is bad"} if failed else None,
            "last_seq": 1,
            "fencing_token": 1,
            "claims": 0,
            "goal": "run",
            "queued": False,
        }


def add_executions(installation: Installation, count: int, **options: Any) -> list[dict[str, Any]]:
    """Write made-up executions; return the rows."""
    rows = list(made_up(count, **options))
    batches = iter(rows)
    with installation.database.write() as connection:
        while batch := list(islice(batches, 5000)):
            connection.execute(insert(executions), batch)
    return rows
