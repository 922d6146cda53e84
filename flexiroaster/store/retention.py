"""Forget executions that ended long ago, a batch a transaction, so that no writer waits long for the lock."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, exists, select

from flexiroaster.model.execution import TERMINAL
from flexiroaster.store.database import Database
from flexiroaster.store.safety_tables import risk_assessments
from flexiroaster.store.tables import commands, events, executions, stage_runs

__all__ = ["expired", "forget"]

WITH_EXECUTION = (events, stage_runs, commands, risk_assessments)
"""Tables whose rows belong to an execution and go with it."""

_rerun = executions.alias("rerun")
_HAS_RERUN = exists().where(_rerun.c.parent_id == executions.c.id)
"""A rerun refers to tables of its parent, and hands them on to its own reruns."""

_IDLE = (executions.c.status.in_(sorted(TERMINAL)), executions.c.claimable_at.is_(None))
"""Neither live nor about to be carried on by a command."""


def expired(database: Database, before: datetime, limit: int) -> list[str]:
    """Executions that ended before a time, the oldest first; none that is live or claimable, or that has a rerun."""
    statement = select(executions.c.id).where(*_IDLE, executions.c.completed_at < before, ~_HAS_RERUN)
    with database.read() as connection:
        return list(connection.execute(statement.order_by(executions.c.completed_at).limit(limit)).scalars())


def forget(database: Database, execution_ids: Collection[str]) -> list[str]:
    """Delete executions with all that belongs to them, but for those that are live, claimable or rerun by now; those
    deleted.

    On PostgreSQL the rows are locked first and the reruns looked for by a second statement, which sees a rerun that
    was committed while the first one waited; a rerun that comes later finds no parent (see `store/postgres.py`).
    """
    idle = select(executions.c.id).where(executions.c.id.in_(execution_ids), *_IDLE)
    with database.write() as connection:
        locked = list(connection.execute(idle.order_by(executions.c.id).with_for_update()).scalars())
        ids = list(
            connection.execute(select(executions.c.id).where(executions.c.id.in_(locked), ~_HAS_RERUN)).scalars()
        )
        for table in WITH_EXECUTION:
            connection.execute(delete(table).where(table.c.execution_id.in_(ids)))
        connection.execute(delete(executions).where(executions.c.id.in_(ids)))
    return ids
