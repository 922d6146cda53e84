"""Reads of the state of one execution; `execution_list` has lists, and `batches` reads many executions at once."""

from __future__ import annotations

from sqlalchemy import or_, select

from flexiroaster.errors import NotFoundError
from flexiroaster.model.event import Event, Level
from flexiroaster.store.database import Database
from flexiroaster.store.rows import (
    STAGE_COLUMNS,
    ExecutionRow,
    StageRow,
    event_of,
    execution_columns,
    execution_row,
    stage_row,
)
from flexiroaster.store.tables import events, executions, stage_runs

__all__ = [
    "ExecutionRow",
    "StageRow",
    "by_idempotency_key",
    "events_of",
    "execution",
    "slot_holders",
    "stages_of",
]


def execution(database: Database, execution_id: str) -> ExecutionRow:
    """Return one execution. Raises NotFoundError."""
    with database.read() as connection:
        row = connection.execute(select(*execution_columns()).where(executions.c.id == execution_id)).first()
    if row is None:
        raise NotFoundError(f"Execution not found: {execution_id}", execution_id=execution_id)
    return execution_row(row)


def by_idempotency_key(database: Database, key: str) -> tuple[str, str] | None:
    """Return the id of the execution started with this key, and the digest of its request."""
    statement = select(executions.c.id, executions.c.request_digest).where(executions.c.idempotency_key == key)
    with database.read() as connection:
        row = connection.execute(statement).first()
    return None if row is None else (row.id, row.request_digest)


def slot_holders(database: Database, pipeline_id: str, *, or_wait: bool = False) -> list[str]:
    """Return the executions that hold a slot of the pipeline, oldest first; with `or_wait`, also the queued ones."""
    held = executions.c.slot.is_not(None)
    wanted = or_(held, executions.c.queued) if or_wait else held
    statement = select(executions.c.id).where(executions.c.pipeline_id == pipeline_id, wanted)
    with database.read() as connection:
        return list(connection.execute(statement.order_by(executions.c.created_at, executions.c.id)).scalars())


def stages_of(database: Database, execution_id: str) -> list[StageRow]:
    """Return the stages of an execution, in topological order."""
    statement = select(*STAGE_COLUMNS).where(stage_runs.c.execution_id == execution_id)
    with database.read() as connection:
        return [stage_row(row) for row in connection.execute(statement.order_by(stage_runs.c.position))]


def events_of(
    database: Database,
    execution_id: str,
    *,
    after: int = 0,
    levels: tuple[Level, ...] | None = None,
    limit: int | None = None,
) -> list[Event]:
    """Return the events after number `after`, in order; only those of `levels`, if given."""
    statement = select(events).where(events.c.execution_id == execution_id, events.c.seq > after)
    if levels is not None:
        statement = statement.where(events.c.level.in_(levels))
    with database.read() as connection:
        return [event_of(row) for row in connection.execute(statement.order_by(events.c.seq).limit(limit))]
