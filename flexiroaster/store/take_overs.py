"""Which executions were taken over from a worker whose lease had run out, from their events.

Events have no index by time, so they are read by execution and number: of the few that were claimed twice or more.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import and_, func, or_, select, union

from flexiroaster.model.event import EventType
from flexiroaster.model.execution import ExecutionStatus
from flexiroaster.store.database import Database
from flexiroaster.store.tables import events, executions

__all__ = ["claimed_again", "count"]

_AT_A_TIME = 100


def claimed_again(database: Database, ended_after: datetime) -> dict[str, int]:
    """The number of the last event of each execution that was claimed twice or more, and that is driven, paused, or
    has ended after that time.
    """
    around = (
        executions.c.claimable_at.is_not(None),
        executions.c.status == ExecutionStatus.PAUSED,
        executions.c.completed_at > ended_after,
    )
    again = select(executions.c.id, executions.c.last_seq).where(executions.c.fencing_token > 1)
    statement = union(*(again.where(each) for each in around))  # each by its own index, where an OR of them had none
    with database.read() as connection:
        return {row.id: row.last_seq for row in connection.execute(statement)}


def count(database: Database, spans: Mapping[str, tuple[int, int]], after: datetime | None = None) -> int:
    """How many take-overs the events of these executions tell of, of each behind one number and up to another; only
    those after a time, if given.
    """
    found, all_spans = 0, list(spans.items())
    for first in range(0, len(all_spans), _AT_A_TIME):
        within = [
            and_(events.c.execution_id == execution_id, events.c.seq > behind, events.c.seq <= last)
            for execution_id, (behind, last) in all_spans[first : first + _AT_A_TIME]
        ]
        statement = select(func.count()).select_from(events)
        statement = statement.where(or_(*within), events.c.type == EventType.EXECUTION_CLAIMED)
        if after is not None:
            statement = statement.where(events.c.at > after)
        with database.read() as connection:
            found += connection.execute(statement).scalar_one()
    return found
