"""Reads of the events of executions."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy.sql.operators import eq, gt, in_op, lt

from flexiroaster.model.event import Event, EventType, Level
from flexiroaster.model.paging import Page, Window
from flexiroaster.store.database import Database
from flexiroaster.store.sql import Condition, Sort, TableReader, conditions
from flexiroaster.store.tables import events

__all__ = ["BY_NUMBER", "EVENTS", "EventFilter", "count", "events_of", "events_of_types", "page"]

EVENTS = TableReader(events, Event, type=EventType, level=Level)

BY_NUMBER = Sort("seq", events.c.seq)


@dataclass(frozen=True, slots=True)
class EventFilter:
    """A filter for the events of an execution; a field that is None matches all. Both numbers are exclusive."""

    after: int | None = None
    before: int | None = None
    levels: tuple[Level, ...] | None = None
    types: tuple[EventType, ...] | None = None
    stage_id: str | None = None


def page(
    database: Database, execution_id: str, wanted: EventFilter = EventFilter(), window: Window = Window()
) -> Page[Event]:
    """Return a page of the matching events of an execution, in order; empty if the execution does not exist.

    Raises InputError (cursor).
    """
    with database.read() as connection:
        return EVENTS.page(connection, _conditions(execution_id, wanted), BY_NUMBER, window)


def count(database: Database, execution_id: str, wanted: EventFilter = EventFilter()) -> int:
    """Count the matching events; scans all of them."""
    with database.read() as connection:
        return EVENTS.count(connection, _conditions(execution_id, wanted))


def _conditions(execution_id: str, wanted: EventFilter) -> list[Condition]:
    return conditions(
        (events.c.execution_id, eq, execution_id),
        (events.c.seq, gt, wanted.after),
        (events.c.seq, lt, wanted.before),
        (events.c.level, in_op, wanted.levels),
        (events.c.type, in_op, wanted.types),
        (events.c.stage_id, eq, wanted.stage_id),
    )


def events_of(
    database: Database,
    execution_id: str,
    *,
    after: int = 0,
    levels: tuple[Level, ...] | None = None,
    limit: int | None = None,
) -> list[Event]:
    """Return the events after number `after`, in order; only those of `levels`, if given."""
    statement = EVENTS.select(*_conditions(execution_id, EventFilter(after=after, levels=levels)))
    with database.read() as connection:
        return EVENTS.all(connection, statement.order_by(events.c.seq).limit(limit))


def events_of_types(database: Database, execution_ids: Collection[str], types: Collection[EventType]) -> list[Event]:
    """Return all events of these types of these executions, in order within each execution."""
    statement = EVENTS.select(events.c.execution_id.in_(execution_ids), events.c.type.in_(types))
    with database.read() as connection:
        return EVENTS.all(connection, statement.order_by(events.c.execution_id, events.c.seq))
