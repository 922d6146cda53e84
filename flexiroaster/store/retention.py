"""Forget executions that ended long ago, a batch a transaction, so that nobody waits long for the write lock."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select

from flexiroaster.model.execution import TERMINAL
from flexiroaster.store.database import Database
from flexiroaster.store.safety_tables import risk_assessments
from flexiroaster.store.tables import commands, events, executions, stage_runs

__all__ = ["expired", "forget"]


def expired(database: Database, before: datetime, limit: int) -> list[str]:
    """Executions that ended before a time, the oldest first; none that is live, or that somebody is working on."""
    statement = select(executions.c.id).where(
        executions.c.status.in_(sorted(TERMINAL)),
        executions.c.completed_at < before,
        executions.c.claimable_at.is_(None),
    )
    with database.read() as connection:
        return list(connection.execute(statement.order_by(executions.c.completed_at).limit(limit)).scalars())


def forget(database: Database, execution_ids: list[str]) -> list[str]:
    """Delete executions with all that belongs to them, unless somebody has begun to work on them; those deleted."""
    idle = select(executions.c.id).where(
        executions.c.id.in_(execution_ids),
        executions.c.status.in_(sorted(TERMINAL)),
        executions.c.claimable_at.is_(None),
    )
    with database.write() as connection:
        ids = list(connection.execute(idle.with_for_update()).scalars())
        for table in (events, stage_runs, commands, risk_assessments):
            connection.execute(delete(table).where(table.c.execution_id.in_(ids)))
        connection.execute(delete(executions).where(executions.c.id.in_(ids)))
    return ids
