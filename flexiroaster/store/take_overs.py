"""Takeovers: executions claimed from a worker whose lease expired, counted from their events.

Events have no index by time. They are therefore read by execution and number, only for the few executions that were
claimed twice or more.
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
    """Return the last event number of each execution that was claimed twice or more.

    Includes only executions that are driven or paused, or that ended after `ended_after`.
    """
    around = (
        executions.c.claimable_at.is_not(None),
        executions.c.status == ExecutionStatus.PAUSED,
        executions.c.completed_at > ended_after,
    )
    again = select(executions.c.id, executions.c.last_seq).where(executions.c.fencing_token > 1)
    statement = union(*(again.where(each) for each in around))  # each part uses its own index; an OR would use none
    with database.read() as connection:
        return {row.id: row.last_seq for row in connection.execute(statement)}


def count(database: Database, spans: Mapping[str, tuple[int, int]], after: datetime | None = None) -> int:
    """Count the takeovers in the events of these executions.

    `spans` gives, per execution, the range of event numbers: after the first number, up to the second. With `after`,
    only events after that time count.
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
