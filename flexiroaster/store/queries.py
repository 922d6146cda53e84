"""Reads of execution state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, select

from flexiroaster.errors import NotFoundError
from flexiroaster.model.event import Event, EventType, Level
from flexiroaster.model.execution import ExecutionStatus, StageStatus
from flexiroaster.store.database import Database
from flexiroaster.store.tables import events, executions, stage_runs

__all__ = [
    "ExecutionRow",
    "StageRow",
    "by_idempotency_key",
    "events_of",
    "execution",
    "execution_page",
    "slot_holders",
    "stages_of",
]


@dataclass(frozen=True, slots=True)
class ExecutionRow:
    """An execution as it stands in the database. `error` has at least `message`."""

    id: str
    pipeline_id: str
    pipeline_name: str
    revision: int
    status: ExecutionStatus
    variables: dict[str, Any]
    triggered_by: str
    total_stages: int
    completed_stages: int
    risk_score: float | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    error: dict[str, Any] | None
    last_seq: int

    @property
    def duration(self) -> float | None:
        """Seconds from start to end; None before the end."""
        if self.started_at is None or self.completed_at is None:
            return None
        return (self.completed_at - self.started_at).total_seconds()

    @property
    def progress(self) -> float:
        """Percent of the stages that are completed, one decimal."""
        return round(100 * self.completed_stages / self.total_stages, 1) if self.total_stages else 0.0


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage's part of an execution. `attempt` counts from 1; 0 before the first. `retry_at`: next attempt."""

    stage_id: str
    position: int
    name: str
    status: StageStatus
    attempt: int
    started_at: datetime | None
    completed_at: datetime | None
    retry_at: datetime | None
    output: dict[str, Any] | None
    error: dict[str, Any] | None
    is_anomaly: bool

    @property
    def duration(self) -> float | None:
        """Seconds of the last attempt; None while it runs or before."""
        if self.started_at is None or self.completed_at is None:
            return None
        return (self.completed_at - self.started_at).total_seconds()


_EXECUTION_COLUMNS = [executions.c[name] for name in ExecutionRow.__slots__]
_STAGE_COLUMNS = [stage_runs.c[name] for name in StageRow.__slots__]


def execution(database: Database, execution_id: str) -> ExecutionRow:
    """One execution. Raises NotFoundError."""
    with database.read() as connection:
        row = connection.execute(select(*_EXECUTION_COLUMNS).where(executions.c.id == execution_id)).first()
    if row is None:
        raise NotFoundError(f"Execution not found: {execution_id}", execution_id=execution_id)
    return _execution(row)


def execution_page(
    database: Database,
    *,
    pipeline_id: str | None = None,
    status: ExecutionStatus | None = None,
    since: datetime | None = None,
    skip: int = 0,
    limit: int = 100,
) -> tuple[list[ExecutionRow], int]:
    """A page of executions, newest first, and how many match in all."""
    conditions = []
    if pipeline_id is not None:
        conditions.append(executions.c.pipeline_id == pipeline_id)
    if status is not None:
        conditions.append(executions.c.status == status)
    if since is not None:
        conditions.append(executions.c.created_at >= since)
    with database.read() as connection:
        total = connection.execute(select(func.count()).select_from(executions).where(*conditions)).scalar_one()
        page = select(*_EXECUTION_COLUMNS).where(*conditions)
        page = page.order_by(executions.c.created_at.desc(), executions.c.id.desc()).offset(skip).limit(limit)
        rows = connection.execute(page).all()
    return [_execution(row) for row in rows], total


def by_idempotency_key(database: Database, key: str) -> tuple[str, str] | None:
    """The execution that was started with a key, and the digest of what was asked for then."""
    statement = select(executions.c.id, executions.c.request_digest).where(executions.c.idempotency_key == key)
    with database.read() as connection:
        row = connection.execute(statement).first()
    return None if row is None else (row.id, row.request_digest)


def slot_holders(database: Database, pipeline_id: str) -> list[str]:
    """The executions that hold the slots of a pipeline's concurrency, the oldest first."""
    statement = select(executions.c.id).where(executions.c.pipeline_id == pipeline_id, executions.c.slot.is_not(None))
    with database.read() as connection:
        return list(connection.execute(statement.order_by(executions.c.created_at, executions.c.id)).scalars())


def stages_of(database: Database, execution_id: str) -> list[StageRow]:
    """The stages of an execution, in topological order."""
    statement = select(*_STAGE_COLUMNS).where(stage_runs.c.execution_id == execution_id)
    with database.read() as connection:
        rows = connection.execute(statement.order_by(stage_runs.c.position)).all()
    return [StageRow(**{**row._mapping, "status": StageStatus(row.status)}) for row in rows]


def events_of(
    database: Database,
    execution_id: str,
    *,
    after: int = 0,
    levels: tuple[Level, ...] | None = None,
    limit: int | None = None,
) -> list[Event]:
    """The events after a number, in order; of some levels only, if given."""
    statement = select(events).where(events.c.execution_id == execution_id, events.c.seq > after)
    if levels is not None:
        statement = statement.where(events.c.level.in_(levels))
    with database.read() as connection:
        rows = connection.execute(statement.order_by(events.c.seq).limit(limit)).all()
    return [Event(**{**row._mapping, "type": EventType(row.type), "level": Level(row.level)}) for row in rows]


def _execution(row: Row[Any]) -> ExecutionRow:
    return ExecutionRow(**{**row._mapping, "status": ExecutionStatus(row.status)})
