"""Expire leases without waiting.

Tests give long leases, so that no process loses one because the machine is busy, and end those of a process that is
dead or frozen themselves.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import update

from flexiroaster.model.event import utc_now
from flexiroaster.store.database import Database
from flexiroaster.store.tables import executions

__all__ = ["expire_leases"]


def expire_leases(database: Database, owner: str | int) -> None:
    """Expire all leases of a process, given by its owner name or process id."""
    held_by = executions.c.lease_owner
    is_held = held_by.contains(f":{owner}:", autoescape=True) if isinstance(owner, int) else held_by == owner
    with database.write() as connection:
        statement = update(executions).where(is_held, executions.c.claimable_at.is_not(None))
        connection.execute(statement.values(claimable_at=utc_now() - timedelta(seconds=1)))
